"""Run this example under the fence, show what was caught, and compare that with what should be.

Exit status 0: caught exactly what it should. Standard library only; HOME is a scratch directory, and every address
is one that is reserved for documentation or refused, so that nothing is harmed even where the fence is broken.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FAILED = 1  # pytest's exit status when tests failed

# test -> what its report must name; None: the fence must leave it alone
EXPECTED = {
    "test_total": None,
    "test_usage_is_reported_quietly": "resolve telemetry.example.com",
    "test_failed_upload_is_noticed": "connect 192.0.2.7:80/tcp",
    "test_deployment_host_is_trusted": "write {home}/.ssh/known_hosts",
    "test_payment_is_queued_or_charged": "resolve api.stripe.com",
    "test_exchange_rate": None,
    "test_receipt_is_filed": None,
}
# What would make this run differ from yours without telling anything about the fence.
NOT_INHERITED = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "http_proxy", "https_proxy", "all_proxy", "no_proxy")


def environment(home: Path) -> dict[str, str]:
    unwanted = {name for name in os.environ if name.lower() in {n.lower() for n in NOT_INHERITED}}
    return {**{name: value for name, value in os.environ.items() if name not in unwanted}, "HOME": str(home)}


def run(command: list[str], home: Path) -> tuple[int, str]:
    """Show what the command prints while it runs; return its exit status and the same text without colours."""
    if sys.stdout.isatty():
        command = [*command, "--color=yes"]
    said = []
    with subprocess.Popen(
        command, cwd=HERE, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            said.append(re.sub(r"\x1b\[[0-9;]*m", "", line))
    return process.returncode, "".join(said)


def caught(said: str) -> tuple[str, dict[str, str]]:
    """The title of the fence's section, and what stands there for each test."""
    section = re.search(r"^=+ (fence: .*?) =+$(.*?)(?=^=|\Z)", said, re.DOTALL | re.MULTILINE)
    if section is None:
        return "no section of the fence", {}
    blocks: dict[str, str] = {}
    place = ""
    for line in section[2].splitlines():
        if line and not line.startswith(" "):
            place = line.rpartition("::")[2]
        blocks[place] = blocks.get(place, "") + line + "\n"
    return section[1], blocks


def compare(said: str, home: Path) -> list[tuple[bool, str, str]]:
    """For each thing that is checked: is it as it should be, its name, and how it came out."""
    title, blocks = caught(said)
    rows = []
    for test, pattern in EXPECTED.items():
        if pattern is None:
            rows.append((test not in blocks, test, "left alone" if test not in blocks else "caught, wrongly"))
        else:
            what = pattern.format(home=home)
            good = what in blocks.get(test, "")
            rows.append((good, test, f"{'caught' if good else 'NOT caught'}: {what}"))
    number = sum(pattern is not None for pattern in EXPECTED.values())
    exact = f"fence: {number} violations in {number} tests"
    rows.append((title == exact, "nothing else", title if title == exact else f"{title!r}, should be {exact!r}"))
    return rows


def main() -> int:
    # Not below the temporary directory or this project's root, where tests may write without being asked.
    home = Path(tempfile.mkdtemp(prefix=".demo-", dir=HERE.parent))
    try:
        (home / ".ssh").mkdir()
        print("$ pytest --fence", *sys.argv[1:], flush=True)
        status, said = run([sys.executable, "-m", "pytest", "--fence", *sys.argv[1:]], home)
        rows = compare(said, home)
        if (home / ".ssh" / "known_hosts").exists():
            rows.append((False, "test_deployment_host_is_trusted", "the file was written all the same"))
    finally:
        shutil.rmtree(home, ignore_errors=True)
    rows.append((status == FAILED, "the whole run", f"exit status {status}, should be {FAILED}"))
    good = all(good for good, _, _ in rows)
    print(f"\nThe fence caught {'exactly what it should' if good else 'something else than it should'}:")
    width = max(len(test) for _, test, _ in rows)
    for right, test, outcome in rows:
        print(f"  {'ok   ' if right else 'WRONG'} {test:<{width}}  {outcome}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
