"""Run this example under the fence, show what was caught, and compare that with what should be.

Exit status 0: caught exactly what it should. Standard library only; HOME is a scratch directory, and every address
is one that is reserved for documentation or refused, so that nothing is harmed even where the fence is broken.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
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


def failures(junit: Path) -> dict[str, str]:
    """Test -> everything that its report says; empty where it passed."""
    said: dict[str, str] = {}
    for case in ET.parse(junit).iter("testcase"):
        texts = [f"{part.get('message', '')}\n{part.text or ''}" for part in case if part.tag in ("failure", "error")]
        said[case.get("name", "")] = said.get(case.get("name", ""), "") + "".join(texts)
    return said


def compare(said: dict[str, str], home: Path) -> list[tuple[bool, str, str]]:
    """For each test: is it as expected, its name, and how it came out."""
    rows = []
    for test, pattern in EXPECTED.items():
        text = said.pop(test, "did not run")
        if pattern is None:
            rows.append((not text, test, "left alone" if not text else "FAILED, and should not have"))
        else:
            what = pattern.format(home=home)
            rows.append((what in text, test, f"caught: {what}" if what in text else f"NOT caught: {what}"))
    rows += [(False, test, "not expected at all") for test in said]
    return rows


def main() -> int:
    # Not below the temporary directory or this project's root, where tests may write without being asked.
    scratch = Path(tempfile.mkdtemp(prefix=".demo-", dir=HERE.parent))
    try:
        home, junit = scratch / "home", scratch / "junit.xml"
        (home / ".ssh").mkdir(parents=True)
        command = [sys.executable, "-m", "pytest", "--fence", f"--junitxml={junit}", *sys.argv[1:]]
        print("$ pytest --fence", *sys.argv[1:], flush=True)
        status = subprocess.run(command, cwd=HERE, env=environment(home)).returncode
        if not junit.exists():
            print(f"\ncheck.py: pytest wrote no report (exit status {status})", file=sys.stderr)
            return 1
        rows = compare(failures(junit), home)
        if (home / ".ssh" / "known_hosts").exists():
            rows.append((False, "test_deployment_host_is_trusted", "the file was written all the same"))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    rows.append((status == FAILED, "the whole run", f"exit status {status}, should be {FAILED}"))
    print("\nWhat the fence should have caught, and did:")
    width = max(len(test) for _, test, _ in rows)
    for good, test, outcome in rows:
        print(f"  {'ok   ' if good else 'WRONG'} {test:<{width}}  {outcome}")
    return 0 if all(good for good, _, _ in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
