"""Policies and command lines that nobody would write: `python -m tests.end_to_end.command.fuzz SEED COUNT [FIRST]`.

Each case is `fence` in a directory of its own, forked from this process, which has imported it. What is wrong is a line
on stdout: the number of the case, and why. In the working directory stays what the last case was given.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from fence_core.command import main as command
from fence_core.command.options import OPTIONS
from fence_core.policy.keys import KEYS, PRESETS, Key

SECONDS = 60
RAN = "the command ran"
COMMANDS = {"git", "true", "pytest", "/etc", "/", ".", ".."}
STATUSES = {0, 1, 2, 126, 127}
WORDS = (
    "", ".", "..", "/", "*", "*.com", "*.*", "a.test", "*.a.test", "a.test:80", "a.test:0", "a.test:99999",
    "-", "--", "-s",
    "127.0.0.1", "127.0.0.1:80", "[::1]:5", "[::1", "10.0.0.0/8", "10.0.0.0/99", "http://a.test",
    "A.TEST.", "é.test", "xn--",
    "~", "~nobody/x", "~no-such-user/x", "$HOME/x", "${HOME", "a\0b", "a\nb", "\ud800", "\x1b[31m", "x" * 300,
    "a/" * 3000, "**/*",
    "[a-", "{a,b}", "p.json", "./p.json", "./q.json", "@base", "/dev/null", "/etc", "nosuch", "true",
    "0", "8080", "-1", "1e9",
    "git push", "git", "git  push", "python3 -c", '"', "'", "\\", "#", "//", "/*", "{{x}}", "{temp}", "%s",
)  # fmt: skip
VALUES = ("1:2:3", "0.0.0.0:0", "127.0.0.1:29999", "log", "no/log")
ODD = (0, 9, 10, 13, 34, 35, 47, 58, 91, 123, 125, 0xFF, 0xEF)
PIECES = (b"[" * 3000, b"{" * 3000, b"&a *a", b"!!python/object:x ", b"<<: ")
NUMBERS = (0, 1, -1, 80, 65535, 65536, 10**30, 0.5, 1e300, float("inf"))


class Case:
    """A policy, by its file's name, and a command line."""

    def __init__(self, seed: int, number: int) -> None:
        self._random = random.Random(f"{seed}/{number}")
        chosen = self._random
        suffix = chosen.choice(("json", "jsonc", "yaml", "toml"))
        self.files = {f"p.{suffix}": self._policy(suffix), "q.json": self._policy("json")}
        found = chosen.random() < 0.3
        if found:  # not named, but in the working directory
            self.files[f"fence.{suffix}" if suffix != "toml" else "pyproject.toml"] = self.files.pop(f"p.{suffix}")
        self.arguments = self._arguments([] if found else ["-s", f"p.{suffix}"])

    def _value(self, depth: int = 0) -> Any:
        chosen, many = self._random, self._random.randrange(4)
        kinds: list[Callable[[], Any]] = [
            lambda: chosen.choice(WORDS),
            lambda: chosen.choice(NUMBERS),
            lambda: chosen.choice((True, False, None)),
            lambda: chosen.choice(KEYS).example,
        ]
        if depth < 3:
            kinds += [
                lambda: [self._value(depth + 1) for _ in range(many)],
                lambda: {str(chosen.choice(WORDS)): self._value(depth + 1) for _ in range(many)},
            ]
        return chosen.choice(kinds)()

    def _proper(self, key: Key) -> object:
        """Something that such a key may have."""
        if key.refused or key.harmless:
            return self._random.choice(key.harmless or (None,))
        if key.example:
            return [key.example]
        return self._random.choice(key.choices or (True, False))

    def _policy(self, suffix: str) -> bytes:
        chosen, tree = self._random, {}
        for key in chosen.sample(KEYS, chosen.randrange(4)):
            place = tree.setdefault(key.section, {}) if key.section and chosen.random() < 0.95 else tree
            if not isinstance(place, dict):
                continue
            name = key.name
            if chosen.random() < 0.5:
                name = re.sub("_(.)", lambda letter: letter[1].upper(), name)
            right = [chosen.choice(WORDS) for _ in range(chosen.randrange(4))]
            odd = chosen.random() < 0.25
            place[name] = chosen.choice((right, True, False, self._value())) if odd else self._proper(key)
        if chosen.random() < 0.1:
            tree["extends"] = chosen.choice((*PRESETS, *WORDS))
        if chosen.random() < 0.05:
            tree[chosen.choice(WORDS)] = self._value()
        return self._spoilt(self._text(tree, suffix))

    def _text(self, tree: dict[str, Any], suffix: str) -> bytes:
        if suffix == "yaml" and self._random.random() < 0.5:
            return yaml.dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")
        if suffix == "toml":
            lines = ["[tool.fence]"]
            for name, value in tree.items():
                if isinstance(value, dict):
                    lines += [f"{_quoted(name)}.{_quoted(key)} = {json.dumps(each)}" for key, each in value.items()]
                else:
                    lines.append(f"{_quoted(name)} = {json.dumps(value)}")
            return "\n".join(lines).encode("utf-8", "surrogatepass")
        return json.dumps(tree, indent=self._random.choice((None, 2)), ensure_ascii=self._random.random() < 0.5).encode(
            "utf-8", "surrogatepass"
        )

    def _spoilt(self, text: bytes) -> bytes:
        chosen, data = self._random, bytearray(text)
        if chosen.random() < 0.75:
            return text
        for _ in range(chosen.randrange(1, 4)):
            place = chosen.randrange(len(data) + 1)
            match chosen.randrange(6):
                case 0:
                    del data[place : place + chosen.randrange(1, 9)]
                case 1:
                    data[place:place] = bytes(
                        chosen.choice((0, 9, 10, 13, 34, 35, 47, 58, 91, 123, 125, 0xFF, 0xEF)) for _ in range(3)
                    )
                case 2:
                    data[place:place] = chosen.choice(
                        (b"[" * 3000, b"{" * 3000, b"&a *a", b"!!python/object:x ", b"<<: ")
                    )
                case 3:
                    data += data[place:]
                case 4:
                    data[:0] = b"\xef\xbb\xbf"
                case 5:
                    del data[place:]
        return bytes(data)

    def _arguments(self, policy: list[str]) -> list[str]:
        chosen = self._random
        words: list[str] = list(policy)
        for _ in range(chosen.choice((0, 0, 0, 0, 1, 1, 2))):
            option = chosen.choice(OPTIONS)
            words.append(f"-{option.short}" if option.short and chosen.random() < 0.5 else f"--{option.name}")
            if option.value and chosen.random() < 0.9:
                words.append(chosen.choice((*WORDS, *PRESETS, *VALUES)))
        if chosen.random() < 0.05:
            words.append(chosen.choice(WORDS))
        kind = chosen.random()
        if kind < 0.15:
            return [*chosen.choice((["check"], ["config", "show"], ["config"], ["config", "schema"])), *words]
        if kind < 0.3:
            what = chosen.choice(("connect", "resolve", "bind", "write", "read", "run", "nosuch"))
            return ["explain", *words, what, *chosen.choices(WORDS, k=chosen.randrange(3))]
        return [*words, *([] if kind < 0.35 else ["/bin/echo", RAN])]


def _quoted(name: str) -> str:
    return name if re.fullmatch("[A-Za-z_]+", name) else json.dumps(name)


def run(case: Case) -> tuple[int, str, str]:
    """Status, output, error; in the working directory."""
    os.mkdir("case")
    for name, data in case.files.items():
        Path("case", name).write_bytes(data)
    arguments = [word.encode("utf-8", "surrogatepass").split(b"\0")[0] for word in case.arguments]
    Path("arguments").write_bytes(b"\n".join(arguments))
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir("case")
            for number, name in ((1, "../out"), (2, "../err")):
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.argv = ["fence", *map(os.fsdecode, arguments)]
            signal.alarm(SECONDS)
            command.main()
        finally:
            os._exit(99)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    shutil.rmtree("case")
    return status, *(Path(name).read_text("utf-8", "replace") for name in ("out", "err"))  # type: ignore[return-value]


def wrong(case: Case, status: int, out: str, err: str) -> str:
    """What a user should not see; empty where all is well."""
    ours = len(re.findall(r"^fence: ", err, re.MULTILINE))
    ran = RAN in out.splitlines()
    if ("Traceback" in err and "fence_core" in err) or "internal error" in err:
        return "a mistake of ours"
    if ran and (status or ours):
        return "the command ran, and something is said to be wrong"
    if ours > 1 or (ours and not status):
        return f"{ours} errors of ours, and status {status}"
    # Some words that are put before the command are a command themselves, which says what it likes.
    before = [word for word in case.arguments if word in COMMANDS or word.startswith(("-c", "--command"))]
    answered = case.arguments[:1] in (["explain"], ["check"]) and out
    if status and not (ran or ours or before or answered):
        return "nothing is said"
    if status not in STATUSES and not before:
        return "it has ended in another way"
    return ""


def main(seed: int, count: int, first: int) -> None:
    seen: dict[int, int] = {}
    ran = 0
    for number in range(first, first + count):
        case = Case(seed, number)
        status, out, err = run(case)
        seen[status] = seen.get(status, 0) + 1
        ran += RAN in out.splitlines()
        if why := wrong(case, status, out, err):
            print(f"case {seed} {number}: {why}: {case.arguments} {case.files}")
            print(f"status {status}\n{out[-500:]}{err[-1500:]}")
    print(f"ran {ran} of {count}, statuses {dict(sorted(seen.items()))}")


if __name__ == "__main__":
    main(*map(int, (*sys.argv[1:], "0")[:3]))
