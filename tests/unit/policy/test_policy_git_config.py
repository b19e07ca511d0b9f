"""What a repository may say of itself, and everything that is a way to a program."""

from __future__ import annotations

import pytest

from fence_core.policy.git_config import SIZE_MAX, objection

OF_A_CLONE = b"""[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = false
\tlogallrefupdates = true
; a comment
# another
[remote "origin"]
\turl = git@example.com:a/b.git
\tfetch = +refs/heads/*:refs/remotes/origin/*
[branch "main"]
\tremote = origin
\tmerge = refs/heads/main
[user] name = "A B"
\temail = a@example.com
[extensions]
\tobjectFormat = sha256
[advice]
\tdetachedHead = false
[submodule]
\tactive = .
"""


def test_what_git_writes_itself_is_harmless() -> None:
    assert objection(OF_A_CLONE) == ""
    assert objection(OF_A_CLONE.replace(b"\n", b"\r\n")) == ""
    assert objection(b"") == ""


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[core]\nhooksPath = x", "core.hookspath"),
        ("[CORE]\nHOOKSPATH = x", "core.hookspath"),
        ("[core] fsmonitor = x", "core.fsmonitor"),
        ("[core]\n\tbare = false\n\teditor = x", "core.editor"),
        ("[core]\npager", "core.pager"),
        ("[core]\nsshCommand = x", "core.sshcommand"),
        ("[core]\ngitProxy = x", "core.gitproxy"),
        ("[core]\nattributesFile = x", "core.attributesfile"),
        ("[alias]\nst = !x", "alias.st"),
        ("[include]\npath = x", "include.path"),
        ('[includeIf "gitdir:/"]\npath = x', "includeif.path"),
        ('[filter "x"]\nclean = x', "filter.clean"),
        ('[diff "x"]\ncommand = x', "diff.command"),
        ('[merge "x"]\ndriver = x', "merge.driver"),
        ("[credential]\nhelper = x", "credential.helper"),
        ("[gpg]\nprogram = x", "gpg.program"),
        ("[init]\ntemplateDir = x", "init.templatedir"),
        ('[remote "o"]\nuploadpack = x', "remote.uploadpack"),
        ('[remote "o"]\nvcs = x', "remote.vcs"),
        ('[branch "b"]\nmergeOptions = -s x', "branch.mergeoptions"),
        ('[submodule "s"]\nupdate = !x', "submodule.update"),
        ("[protocol]\nallow = always", "protocol.allow"),
        ("[sequence]\neditor = x", "sequence.editor"),
        ("[uploadpack]\npackObjectsHook = x", "uploadpack.packobjectshook"),
        ('[remote "o"]\nurl = ext::sh -c x', "the value of remote.url"),
        ('[remote "o"]\nurl = "ext"::sh', "the value of remote.url"),
        ('[remote "o"]\nurl = e\\xt::sh', "the value of remote.url"),
        ('[branch "b"]\nremote = ext::sh', "the value of branch.remote"),
        # Whatever is read in another way than here must not be taken for harmless.
        ("[core.x]\nbare = true", "line 1"),
        ("[core]\nbare = \\\nfalse", "line 2"),
        ("[core]\r[alias]\nst = x", "line 1"),
        ("[core]\nbare\x0b= x", "line 2"),
        ("[core\nbare = x", "line 1"),
        ("bare = true", "line 1"),
        ("\ufeff[core]\nbare = true", "line 1"),
        ("[core]\n[alias] ; [core]\nst = x", "alias.st"),
        ('[user "]"]\n[alias]\nx = y', "alias.x"),
    ],
)
def test_everything_else_is_not(text: str, what: str) -> None:
    assert objection(text.encode()) == what
    assert objection(OF_A_CLONE + text.encode()) != ""


def test_what_is_too_long_is_not_read() -> None:
    assert objection(b"#" * (SIZE_MAX + 1)) == "its length"
