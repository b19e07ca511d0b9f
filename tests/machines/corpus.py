"""Real suites in an unmodified Docker container, as root and as a user, plain and fenced: `python3 dev.py corpus`.

    dev.py corpus RUNNER --work DIR [--repeats N] NAME...

RUNNER is the corpus' run.py and NAMEs are its projects (benchmarks/corpus/README.md). They are prepared below DIR,
here, where there is a network; a container works on a copy at the same place, by Docker's default profile. DIR should
not be below a temporary directory, since the preset lets tests write there. Prints what has changed. Exit status 0:
nothing has. 2: this machine cannot do it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.machines.containers import Docker, why_not
from tests.machines.roots import UnavailableError, command
from tests.machines.rows import NOBODY

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = "pytest-fence"
SECONDS = 900  # a suite that has not ended by then hangs


def compared(docker: Docker, given: argparse.Namespace, name: str, user: int, scratch: Path) -> dict[str, Any]:
    """What the runner says of one project there: its entry in the result. `scratch`: wheels, and a copy."""
    arguments = "--fence"
    policy = ROOT / "benchmarks" / "corpus" / f"{name}.json"
    if policy.exists():
        arguments += f" --fence-config={shlex.quote(str(policy))}"
    copy, wheels = scratch / f"{name}-{user}", scratch / "wheels"
    copy.mkdir()
    command("cp", "-a", given.work / name, copy, what="copying a project")
    command("chown", "-R", f"{user}:{user}", copy, what="giving a copy to its user")
    words = ["env", "PIP_NO_INDEX=1", f"PIP_FIND_LINKS={wheels}", "PIP_NO_CACHE_DIR=1", sys.executable]
    words += [str(given.runner), "run", name, "--work", str(given.work), "--repeats", str(given.repeats)]
    words += ["--warmup", "0", "--timeout", str(SECONDS)]
    words += ["--plugin", PLUGIN, "--args", arguments, "--json", str(given.work / "result.json")]
    see = [ROOT, given.runner.parent, wheels]
    docker.run("docker", words, user=user, see=see, log=sys.stdout, write={given.work: copy})
    result = copy / "result.json"
    return json.loads(result.read_text(encoding="utf-8"))["projects"][0] if result.exists() else {}


def verdict(entry: dict[str, Any]) -> str:
    """What is wrong; empty where fenced runs are as plain ones."""
    if "changed" not in entry:
        return str(entry.get("problem", "no result"))
    lost = [problem for problem in entry["problems"] if problem.startswith(("plain:", "fenced:"))]
    found = {**entry["changed"], **entry["unsteady"]}
    return "; ".join([*lost, *(f"{test}: {' > '.join(outcomes)}" for test, outcomes in found.items())])


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="dev.py corpus", description=__doc__)
    parser.add_argument("runner", type=Path, metavar="RUNNER")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR")
    parser.add_argument("--repeats", type=int, default=2, metavar="N", help="runs of each kind (default: %(default)s)")
    parser.add_argument("names", nargs="+", metavar="NAME")
    given = parser.parse_args(words)
    given.runner, given.work = given.runner.resolve(), given.work.resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the daemon is ended
    reason = why_not("docker")
    if reason:
        print(f"dev.py corpus: {reason}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="fence-corpus-") as directory:
        scratch = Path(directory)
        scratch.chmod(0o755)
        try:
            pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet")
            command(*pip, "--wheel-dir", scratch / "wheels", ROOT, what="building the plugin")
            runner = (sys.executable, given.runner, "prepare", *given.names, "--work", given.work)
            command(*runner, what="preparing the projects")
            with Docker() as docker:
                told = [
                    f"{name} as {'a user' if user else 'root'}: {len(entry.get('changed', ()))} changed of"
                    f" {sum(entry.get('plain', {}).values())}; {verdict(entry) or 'as it should be'}"
                    for user in (0, NOBODY)
                    for name in given.names
                    for entry in [compared(docker, given, name, user, scratch)]
                ]
        except UnavailableError as error:
            print(f"dev.py corpus: {error}", file=sys.stderr)
            return 2
    print(*told, sep="\n")
    return 0 if all(line.endswith("as it should be") for line in told) else 1


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main(sys.argv[1:]))
