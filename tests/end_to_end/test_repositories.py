"""Repositories of git in the project: what tests make themselves works; what git would obey tomorrow is refused."""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import Fenced

GIT = """
import os, shutil, subprocess
import pytest

ENV = {
    **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
    "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.com",
}

def git(*words, cwd=".", fails=False):
    done = subprocess.run(["git", *words], cwd=cwd, env=ENV, stdout=-1, stderr=-2, text=True)
    assert bool(done.returncode) == fails, done.stdout
    return done.stdout

def bare(where, *parts):
    os.makedirs(where, exist_ok=True)
    for part in parts:
        if part in ("objects", "refs", "hooks"):
            os.mkdir(f"{where}/{part}")
        elif part == "HEAD":
            with open(f"{where}/HEAD", "w") as file:
                file.write("ref: refs/heads/main\\n")
        elif part == "config":
            with open(f"{where}/config", "w") as file:
                file.write("[core]\\n\\trepositoryformatversion = 0\\n\\tfsmonitor = id\\n")
"""


def test_what_tests_make(fenced: Fenced) -> None:
    """With hooks that git only shows, and the settings that every repository has; and it can be removed again."""
    run = fenced.run(
        GIT
        + """
def test_init():
    git("init", "made")
    assert [name for name in os.listdir("made/.git/hooks") if name.endswith(".sample")]
    git("config", "user.name", "x", cwd="made")
    with open("made/f", "w") as file:
        file.write("1")
    git("add", "f", cwd="made")
    git("commit", "-m", "x", cwd="made")
    git("checkout", "-b", "b", cwd="made")
    git("remote", "add", "other", "https://example.com/y", cwd="made")
    git("gc", cwd="made")
    assert "other" in git("config", "--list", "--local", cwd="made")

def test_clone():
    git("clone", "made", "cloned")
    git("clone", "--no-local", "made", "cloned2")
    git("branch", "--set-upstream-to=origin/b", cwd="cloned")

def test_bare():
    git("init", "--bare", "bare.git")
    git("push", "../bare.git", "HEAD:refs/heads/main", cwd="made")
    git("clone", "--bare", "made", "bare2.git")
    git("config", "receive.denyDeletes", "true", cwd="bare2.git")
    git("clone", "--mirror", "made", "mirror.git")

def test_moved(tmp_path):
    git("clone", "--bare", "made", str(tmp_path / "x.git"))
    os.rename(tmp_path / "x.git", "moved.git")
    git("log", "b", cwd="moved.git")

def test_again():
    git("init", "made")  # as an existing one

def test_rebase():
    git("commit", "--allow-empty", "-m", "y", cwd="made")
    git("rebase", "--force-rebase", "--exec", "touch ran", "HEAD~1", cwd="made")
    assert os.path.exists("made/ran")
    git("rebase", "--force-rebase", "--exec", "false", "HEAD~1", cwd="made", fails=True)
    git("rebase", "--abort", cwd="made")
    assert not os.path.exists("made/.git/rebase-merge")

def test_removed():
    for name in "made", "cloned", "cloned2", "bare.git", "bare2.git", "mirror.git", "moved.git":
        shutil.rmtree(name)

def test_names_alone():
    for name in "config", "HEAD", "objects", "refs", "commondir":
        os.mkdir(f"dir-{name}")
        with open(f"dir-{name}/{name}", "w"):
            pass
    bare("d", "HEAD", "config")
    os.mkdir("d/hooks")
    with open("d/hooks/useful.py", "w"):
        pass

def test_below_temporary_directories(tmp_path):
    git("init", str(tmp_path))
    git("config", "core.hooksPath", "x", cwd=tmp_path)
    bare(tmp_path / "b", "HEAD", "objects", "refs", "config")

@pytest.mark.fence(allow_git_config=True)
def test_setting():
    git("init", "made2")
    git("commit", "--allow-empty", "-m", "x", cwd="made2")
    git("config", "core.fsmonitor", "true", cwd="made2")
    git("worktree", "add", "../tree", cwd="made2")
    git("status", cwd="tree")
""",
        env={"HOME": str(fenced.outside)},
    )
    run.clean("test_init", "test_clone", "test_bare", "test_moved", "test_again", "test_removed", "test_names_alone")
    run.clean("test_rebase", "test_below_temporary_directories", "test_setting")
    run.nothing_else()


SETTINGS = {
    "hooksPath": "core.hooksPath",
    "fsmonitor": "core.fsmonitor",
    "alias": "alias.st",
    "filter": "filter.x.clean",
    "credential": "credential.helper",
    "include": "include.path",
}


def test_what_git_would_obey(fenced: Fenced) -> None:
    """In a repository that the tests made, and in one that was there before."""
    fenced.write("old/.git/HEAD", "ref: refs/heads/main\n")
    fenced.write("old/.git/config", "[core]\n\trepositoryformatversion = 0\n")
    fenced.write("old/.git/config.lock", "[user]\n\tname = x\n")
    fenced.write("old/.git/hooks/pre-commit.sample", "")
    fenced.write("old/.git/objects/x", "")
    fenced.write("old/.git/refs/x", "")
    fenced.write("busy/.git/rebase-merge/git-rebase-todo", "")
    run = fenced.run(
        GIT
        + f"""
@pytest.mark.parametrize("key", {list(SETTINGS.values())})
def test_setting(key):
    git("init", "made")
    git("config", key, "id", cwd="made", fails=True)
    assert "id" not in git("config", "--list", "--local", cwd="made").split("=")

def test_hook():
    with pytest.raises(PermissionError):
        open("made/.git/hooks/pre-commit", "w")

def test_hook_by_a_sample():
    with pytest.raises(PermissionError):
        os.rename("made/.git/hooks/pre-commit.sample", "made/.git/hooks/pre-commit")

def test_hook_by_a_link():
    with pytest.raises(PermissionError):
        os.symlink("pre-commit.sample", "made/.git/hooks/post-commit")

def test_hooks_by_a_move(tmp_path):
    shutil.rmtree("made/.git/hooks")  # they are its own
    with pytest.raises(PermissionError):
        os.rename(tmp_path, "made/.git/hooks")

def test_config_that_is_open():
    with open("made/.git/config.lock", "w") as lock:
        lock.write("[core]\\n\\trepositoryformatversion = 0\\n")
        lock.flush()
        os.rename("made/.git/config.lock", "made/.git/config")
        lock.write("\\tfsmonitor = id\\n")
    assert "fsmonitor" not in open("made/.git/config").read()

def test_config_with_another_name():
    with open("made/.git/config.lock", "w") as lock:
        lock.write("[core]\\n\\trepositoryformatversion = 0\\n")
    os.link("made/.git/config.lock", "other")
    with pytest.raises(PermissionError):
        os.rename("made/.git/config.lock", "made/.git/config")

def test_old_config_at_once():
    with pytest.raises(PermissionError):
        open("old/.git/config", "a")

def test_old_config():
    with pytest.raises(PermissionError):
        os.rename("old/.git/config.lock", "old/.git/config")

def test_old_config_removed():
    with pytest.raises(PermissionError):
        os.unlink("old/.git/config")

def test_old_sample():
    with pytest.raises(PermissionError):
        open("old/.git/hooks/pre-commit.sample", "w")

def test_rebase_that_goes_on():
    with pytest.raises(PermissionError):
        open("busy/.git/rebase-merge/git-rebase-todo", "a")

def test_rebase_made_up():
    with pytest.raises(PermissionError):
        os.mkdir("old/.git/rebase-merge")

def test_rebase_by_a_move():
    os.mkdir("rebase")
    with pytest.raises(PermissionError):
        os.rename("rebase", "old/.git/rebase-merge")
""",
        env={"HOME": str(fenced.outside)},
    )
    here = fenced.directory
    for key in SETTINGS.values():
        refused = run.refused(f"test_setting[{key}]", f"rename {here}/made/.git/config", by=["git"])
        assert refused.marker == "@pytest.mark.fence(allow_git_config=True)"
        section, *_, name = key.lower().split(".")
        assert f"here {section}.{name} (" in refused.rule
    run.refused("test_hook", f"write {here}/made/.git/hooks/pre-commit")
    run.refused("test_hook_by_a_sample", f"rename {here}/made/.git/hooks/pre-commit.sample")
    run.refused("test_hook_by_a_link", f"symlink {here}/made/.git/hooks/post-commit")
    run.refused("test_hooks_by_a_move", f"rename {here}/made/.git/hooks")
    run.refused("test_old_config_at_once", f"write {here}/old/.git/config")
    run.clean("test_config_that_is_open")
    run.refused("test_config_with_another_name", f"rename {here}/made/.git/config")
    run.refused("test_old_config", f"rename {here}/old/.git/config")
    run.refused("test_old_config_removed", f"unlink {here}/old/.git/config")
    run.refused("test_old_sample", f"write {here}/old/.git/hooks/pre-commit.sample")
    run.refused("test_rebase_that_goes_on", f"write {here}/busy/.git/rebase-merge/git-rebase-todo")
    run.refused("test_rebase_made_up", f"mkdir {here}/old/.git/rebase-merge")
    run.refused("test_rebase_by_a_move", f"rename {here}/old/.git/rebase-merge")


def test_config_written_at_once(fenced: Fenced) -> None:
    """As libgit2 and GitPython do it, not by way of `config.lock`; whoever opens it finds what was written."""
    run = fenced.run(
        GIT
        + """
CONFIG = "made/.git/config"

def read(path=CONFIG):
    with open(path) as file:
        return file.read()

def test_libgit2():  # git_repository_init, src/libgit2/repository.c
    os.makedirs("made/.git")
    os.close(os.open(CONFIG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666))
    assert os.stat(CONFIG).st_mode & 0o777 == 0o666 & ~os.umask(0o022)
    with open(CONFIG + ".lock", "x") as lock:
        lock.write("[core]\\n\\tbare = false\\n")
    with pytest.raises(FileExistsError):
        os.link(CONFIG + ".lock", CONFIG)
    os.rename(CONFIG + ".lock", CONFIG)
    assert "bare" in read()

def test_by_hand():
    with open(CONFIG, "w") as file:
        for number in range(20):
            file.write(f"[user]\\n\\tname = {number}\\n")
            file.flush()
            assert read().endswith(f"name = {number}\\n")
    with open(CONFIG, "a") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write("\\temail = x\\n")
    assert read().count("name") == 20 and read().endswith("email = x\\n")
    assert os.stat(CONFIG).st_mode & 0o777 == 0o600
    with open(CONFIG, "r+") as file:
        assert file.read().count("name") == 20
        file.seek(0)
        file.truncate()
        file.write("[user]\\n\\tname = y\\n")
    assert read() == "[user]\\n\\tname = y\\n"

def test_twice():
    with open(CONFIG, "a") as first, open(CONFIG, "a") as second:
        first.write("\\temail = 1\\n")
        first.flush()
        second.write("\\temail = 2\\n")
    assert read().endswith("email = 1\\n\\temail = 2\\n")

def test_child():
    subprocess.run(["sh", "-c", "echo '[init]' >> made/.git/config; grep init made/.git/config"], check=True)
    assert read().endswith("[init]\\n")

def test_for_git():
    git("init", "made")
    with open(CONFIG, "a") as file:
        file.write("[remote 'x']\\n".replace("'", '"') + "\\turl = https://example.com/x\\n")
    assert git("remote", cwd="made") == "x\\n"

def test_half():
    with open(CONFIG, "w") as file:
        file.write("[user]\\n\\tnam")
        file.flush()
        assert "nam\\n" not in read() + "\\n"
        file.write("e = half\\n")
    assert read().endswith("name = half\\n")

def test_removed():
    with open(CONFIG, "a") as file:
        shutil.rmtree("made")
        file.write("[core]\\n\\tfsmonitor = id\\n")
    assert not os.path.exists("made")

@pytest.mark.fence(allow_git_config=True)
def test_setting():
    git("init", "--bare", "bare.git")
    with open("bare.git/config", "a") as file:
        file.write("[core]\\n\\tfsmonitor = id\\n")
    assert "fsmonitor" in read("bare.git/config")
    git("config", "core.hooksPath", "x", cwd="bare.git")
""",
        env={"HOME": str(fenced.outside)},
    )
    run.clean("test_libgit2", "test_by_hand", "test_twice", "test_child", "test_for_git", "test_half")
    run.clean("test_removed", "test_setting")
    run.nothing_else()


def test_config_written_at_once_that_git_would_obey(fenced: Fenced) -> None:
    """It is never there to be found, whoever looks when."""
    run = fenced.run(
        GIT
        + """
def read(path="made/.git/config"):
    with open(path) as file:
        return file.read()

def test_it():
    git("init", "made")
    before = read()
    with open("made/.git/config", "a") as file:
        file.write("[core]\\n\\tfsmonitor = id\\n")
        file.flush()
        assert read() == before
        assert git("config", "core.fsmonitor", cwd="made", fails=True) == ""
    assert read() == before

def test_the_first():
    os.makedirs("first/.git")
    with open("first/.git/config", "w") as file:
        file.write("[alias]\\n\\tst = !id\\n")
    assert read("first/.git/config") == ""

def test_in_two_steps():
    with open("made/.git/config", "w") as file:
        file.write("[user]\\n")
        file.flush()
        assert read() == "[user]\\n"
        file.write("[include]\\n\\tpath = x\\n")
    assert read() == "[user]\\n"

def test_by_the_draft_itself():
    with open("made/.git/config", "w") as file:
        again = os.open(f"/proc/self/fd/{file.fileno()}", os.O_WRONLY)
    os.write(again, b"[core]\\n\\thooksPath = x\\n")
    os.close(again)
    assert "hooksPath" not in read()

def test_child():
    subprocess.run(["sh", "-c", "printf '[core]\\n\\tpager = id\\n' > made/.git/config"], check=True)
    assert "pager" not in read()

def test_changed_mind():
    with open("made/.git/config", "w") as file:
        file.write("[alias]\\n\\tst = !id\\n")
        file.flush()
        file.truncate(0)
        file.seek(0)
        file.write("[user]\\n\\tname = x\\n")
    assert read() == "[user]\\n\\tname = x\\n"
""",
        env={"HOME": str(fenced.outside)},
    )
    here = fenced.directory
    for test, path, key in (
        ("test_it", "made/.git", "core.fsmonitor"),
        ("test_the_first", "first/.git", "alias.st"),
        ("test_in_two_steps", "made/.git", "include.path"),
        ("test_by_the_draft_itself", "made/.git", "core.hookspath"),
        ("test_child", "made/.git", "core.pager"),
    ):
        (refused,) = run.attempts(test)
        assert (refused.what, refused.phase) == (f"write {here}/{path}/config", "call"), run
        assert f"here {key}" in refused.rule
        assert refused.marker == "@pytest.mark.fence(allow_git_config=True)"
        run.blamed(test)
    run.clean("test_changed_mind")


@pytest.mark.parametrize("last", ["HEAD", "objects", "refs", "config"])
def test_bare_repository(fenced: Fenced, last: str) -> None:
    """A directory that git would take for a repository, and obey, whatever it is called and in whichever order."""
    parts = [part for part in ("config", "refs", "objects", "HEAD") if part != last]
    run = fenced.run(
        GIT
        + f"""
def test_it():
    bare("lib", *{parts})
    with pytest.raises(PermissionError):
        bare("lib", {last!r})

def test_by_a_move():
    bare("lib2", *{parts})
    bare("elsewhere", {last!r})
    with pytest.raises(PermissionError):
        os.rename("elsewhere/{last}", "lib2/{last}")

def test_by_a_link():
    bare("lib3", *{parts})
    bare("elsewhere2", {last!r})
    with pytest.raises(PermissionError):
        os.symlink("../elsewhere2/{last}", "lib3/{last}")
""",
        env={"HOME": str(fenced.outside)},
    )
    here, op = fenced.directory, "mkdir" if last in ("objects", "refs") else "write"
    run.refused("test_it", f"{op} {here}/lib/{last}")
    run.refused("test_by_a_move", f"rename {here}/lib2/{last}")
    run.refused("test_by_a_link", f"symlink {here}/lib3/{last}")


def test_bare_repository_otherwise(fenced: Fenced) -> None:
    run = fenced.run(
        GIT
        + """
def test_moved(tmp_path):
    bare(tmp_path / "x", "HEAD", "objects", "refs", "config")
    with pytest.raises(PermissionError):
        os.rename(tmp_path / "x", "lib")

def test_moved_deeper(tmp_path):
    bare(tmp_path / "a/b/x", "HEAD", "objects", "refs", "config")
    with pytest.raises(PermissionError):
        os.rename(tmp_path / "a", "lib")

def test_commondir(tmp_path):
    bare("lib", "HEAD")
    with pytest.raises(PermissionError):
        open("lib/commondir", "w")

def test_hook():
    git("init", "--bare", "b.git")
    with pytest.raises(PermissionError):
        open("b.git/hooks/post-update", "w")

def test_hooks_before():
    bare("lib2", "HEAD", "objects", "hooks")
    open("lib2/hooks/post-checkout", "w").close()
    with pytest.raises(PermissionError):
        os.mkdir("lib2/refs")

def test_config_that_stays_open():
    os.makedirs("lib3/objects")
    os.mkdir("lib3/refs")
    with open("lib3/config", "w") as config:
        open("lib3/HEAD", "w").close()  # nothing to object to, yet
        config.write("[core]\\n\\tfsmonitor = id\\n")
    assert open("lib3/config").read() == ""

def test_setting():
    git("init", "--bare", "c.git")
    git("config", "core.fsmonitor", "id", cwd="c.git", fails=True)
""",
        env={"HOME": str(fenced.outside)},
    )
    here = fenced.directory
    run.refused("test_moved", f"rename {here}/lib/config")
    run.refused("test_moved_deeper", f"rename {here}/lib/b/x/config")
    run.refused("test_commondir", f"write {here}/lib/commondir")
    run.refused("test_hook", f"write {here}/b.git/hooks/post-update")
    run.refused("test_hooks_before", f"mkdir {here}/lib2/refs")
    run.clean("test_config_that_stays_open")
    run.refused("test_setting", f"rename {here}/c.git/config", by=["git"])
