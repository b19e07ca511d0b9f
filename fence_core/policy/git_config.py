"""Whether a repository's configuration only says what it is, and names nothing that git would run or read elsewhere.

A repository that a test makes in the project is one that its user may work in tomorrow. git-config(1) has hundreds of
keys, and many of them are programs (`core.fsmonitor`, `alias.*`, `diff.*.command`), or say where more of them stand
(`core.hooksPath`, `include.path`). So what is known to be harmless is listed, and everything else is not.
"""

from __future__ import annotations

import re

__all__ = ["SIZE_MAX", "objection"]

SIZE_MAX = 65_536

_HARMLESS = {
    "advice": "",
    "author": "email name",
    "branch": "description merge pushremote rebase remote",
    "color": "ui",
    "commit": "gpgsign",
    "committer": "email name",
    "core": "abbrev autocrlf bare bigfilethreshold compression eol filemode ignorecase logallrefupdates longpaths"
    " precomposeunicode preloadindex quotepath repositoryformatversion safecrlf sharedrepository symlinks"
    " untrackedcache worktree",
    "extensions": "compatobjectformat objectformat partialclone preciousobjects refstorage relativeworktrees"
    " worktreeconfig",
    "fetch": "prune prunetags",
    "gc": "auto autodetach",
    "index": "version",
    "init": "defaultbranch",
    "maintenance": "auto",
    "merge": "conflictstyle ff",
    "protocol": "version",
    "pull": "ff rebase",
    "push": "autosetupremote default followtags",
    "rebase": "autosquash autostash",
    "receive": "denycurrentbranch denydeletes denynonfastforwards",
    "remote": "fetch mirror partialclonefilter promisor prune push pushurl tagopt url",
    "submodule": "active url",
    "tag": "forcesignannotated gpgsign",
    "user": "email name signingkey useconfigonly",
}
"""Keys by section, in lower case as git compares them; of `advice` all, which are booleans."""
_KEYS = {section: frozenset(keys.split()) for section, keys in _HARMLESS.items()}
_SECTION = re.compile(r'\[([A-Za-z0-9-]+)(?:[ \t]+"((?:[^"\\]|\\.)*)")?\][ \t]*(.*)', re.DOTALL)
_KEY = re.compile(r"([A-Za-z][A-Za-z0-9-]*)[ \t]*(?:=(.*))?", re.DOTALL)
_HELPER = re.compile(r"\s*[A-Za-z0-9+.-]+::")
"""`ext::COMMAND` is a program that git talks to (gitremote-helpers(7))."""


def objection(text: bytes) -> str:
    """The first thing in a configuration file that is not known to be harmless; empty if all of it is.

    What is written in a way that git-config(1) allows and hardly anybody uses (a value over several lines, the section
    `[a.b]`) counts as not known.
    """
    if len(text) > SIZE_MAX:
        return "its length"
    section = ""
    for number, raw in enumerate(text.decode("utf-8", "surrogateescape").split("\n"), 1):
        line = raw.removesuffix("\r").strip(" \t")
        if any(char in line for char in "\0\r\v\f") or line.endswith("\\"):
            return f"line {number}"
        found = _SECTION.fullmatch(line)
        if found is not None:
            section, line = found[1].lower(), found[3]
        if not line or line[0] in "#;":
            continue
        key = _KEY.fullmatch(line)
        if key is None:
            return f"line {number}"
        name = key[1].lower()
        if section not in _KEYS or (name not in _KEYS[section] and section != "advice"):
            return f"{section}.{name}" if section else f"line {number}"
        if _HELPER.match(re.sub(r'["\\]', "", key[2] or "")):
            return f"the value of {section}.{name}"
    return ""
