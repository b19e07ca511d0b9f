"""Which policy a command gets: by `-s`, by `-t`, of the project, of the user, or the template `command`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fence_core.errors import PolicyError
from fence_core.policy.commands import Reading
from fence_core.policy.decide import Judge
from fence_core.policy.requests import Bind, Connect, Execute, Write
from fence_core.policy.sources.discover import NO_PROJECT, Discovered, discover
from fence_core.policy.sources.lines import located
from fence_core.policy.sources.load import find_config


class Places:
    """A home directory, and in it a project with directories below it."""

    def __init__(self, base: Path) -> None:
        self.home = base / "home"
        self.project = self.home / "work" / "project"
        self.deep = self.project / "a" / "b"
        self.deep.mkdir(parents=True)
        self.environ = {"HOME": str(self.home)}

    def discover(self, cwd: Path | None = None, **how: Any) -> Discovered:
        return discover(str(cwd or self.deep), environ=self.environ, **how)

    def errors(self, cwd: Path | None = None, **how: Any) -> str:
        with pytest.raises(PolicyError) as caught:
            self.discover(cwd, **how)
        return str(caught.value)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


def write(path: Path, text: str = "{}", mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def domains(found: Discovered) -> list[str]:
    return [entry.text for entry in found.config.policy.network.allowed_domains]


def said(name: str, **more: object) -> str:
    return json.dumps({"network": {"allowedDomains": [name]}, **more})


COMMAND = ("template command", "template default-deny")


def test_none_at_all(places: Places) -> None:
    found = places.discover()
    assert (found.how, found.chain, found.config.source) == ("default", COMMAND, "template command")
    judge = Judge(found.config.policy)
    assert judge.may_write("/dev/shm/x")
    assert not judge.may_write(f"{places.deep}/x")
    assert not judge.decide(Bind("127.0.0.1", 80)).allowed


def test_the_nearest_of_the_project(places: Places) -> None:
    user = write(places.home / ".config/fence/fence.json", said("user.test"))
    assert (domains(places.discover()), places.discover().how) == (["user.test"], "user")
    outer = write(places.project / "fence.json", said("outer.test"))
    found = places.discover()
    assert (found.how, found.chain, domains(found)) == ("project", (str(outer), *COMMAND), ["outer.test"])
    assert found.config.source == str(outer)
    write(places.project / "a" / "pyproject.toml", "[project]\nname = 'fence'\n")
    assert domains(places.discover()) == ["outer.test"]
    write(places.project / "a" / "pyproject.toml", "[tool.fence]\nallowed_domains = ['inner.test']\n")
    found = places.discover()
    assert domains(found) == ["inner.test"]
    assert found.config.source == f"{places.project}/a/pyproject.toml [tool.fence]"
    assert domains(places.discover(project=False)) == ["user.test"]
    places.environ[NO_PROJECT] = "1"
    assert places.discover().chain == (str(user), *COMMAND)
    places.environ[NO_PROJECT] = "0"
    assert domains(places.discover()) == ["inner.test"]


def test_where_the_search_ends(places: Places, tmp_path: Path) -> None:
    write(tmp_path / "fence.json", said("above.test"))
    assert places.discover().how == "default", "above the home directory"
    write(places.home / "fence.json", said("home.test"))
    assert domains(places.discover()) == ["home.test"], "the home directory itself counts"


@pytest.mark.needs("user:root", "program:unshare", "program:mount")
def test_another_file_system(places: Places) -> None:
    if subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("kernel: no mount namespaces")
    write(places.project / "fence.json", said("outer.test"))
    code = (
        "import sys; from fence_core.policy.sources.discover import discover;"
        "print(discover(sys.argv[1], environ={'HOME': sys.argv[2]}).how)"
    )
    script = '"$0" -c "$1" "$2" "$3" && mount -t tmpfs none "$2" && "$0" -c "$1" "$2" "$3"'
    ran = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, sys.executable, code, places.deep, places.home],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout.split() == ["project", "default"]


def test_two_in_one_directory(places: Places) -> None:
    write(places.project / "fence.json")
    write(places.project / "fence.jsonc")
    assert "more than one config of the fence: fence.json and fence.jsonc" in places.errors()
    assert "-s FILE" in places.errors()
    assert places.discover(settings="../../fence.json").how == "settings"


@pytest.mark.parametrize("name", ["fence.json", "fence.yaml", "pyproject.toml"])
def test_a_file_that_anybody_can_write(places: Places, name: str) -> None:
    text = "[tool.fence]\n" if name == "pyproject.toml" else "{}"
    path = write(places.project / name, text, 0o666)
    assert f"{name}: can be written by anybody (mode 0666)" in places.errors()
    assert f'"chmod go-w {path}"; or -s FILE, if you trust it' in places.errors()
    assert places.discover(settings=str(path)).how == "settings", "who names it trusts it"
    assert places.discover(project=False).how == "default"
    path.chmod(0o664)  # by a group: the user's own
    assert places.discover().how == "project"


@pytest.mark.needs("user:root")
def test_a_file_of_somebody_else(places: Places) -> None:
    path = write(places.project / "fence.json")
    os.chown(path, 4711, -1)
    assert "belongs to another user (uid 4711), who could have any command allowed" in places.errors()
    link = places.deep / "fence.json"
    os.chown(path, 0, 0)
    link.symlink_to(path)
    assert places.discover().how == "project"
    os.lchown(link, 4711, -1)
    assert "uid 4711" in places.errors()
    assert places.discover(settings="fence.json").how == "settings"
    link.unlink()
    path.chmod(0o664)
    os.chown(path, 0, 4711)
    assert "can be written by its group (mode 0664)" in places.errors()


def test_what_a_found_file_extends_has_to_be_trusted_too(places: Places) -> None:
    write(places.project / "fence.json", said("own.test", extends="./more.json"))
    more = write(places.project / "more.json", said("more.test"))
    assert domains(places.discover()) == ["more.test", "own.test"]
    more.chmod(0o666)
    assert "more.json: can be written by anybody" in places.errors()
    assert "it is extended by" in places.errors()
    assert domains(places.discover(settings="../../fence.json")) == ["more.test", "own.test"]


def test_a_named_file(places: Places) -> None:
    write(places.project / "fence.json", "{")
    path = write(places.home / "other", "// any name\n" + said("named.test", extends="code-relaxed"))
    found = places.discover(settings="../../../../other")
    assert found.how == "settings"
    assert found.config.source == "../../../../other"
    assert found.chain == (str(path), "template code-relaxed", "template code", *COMMAND)
    assert "No such file or directory" in places.errors(settings="none.json")
    assert "-s and -t: are both given" in places.errors(settings="x", template="code")


def test_standard_input(places: Places) -> None:
    """As `fence config show | fence -s /dev/stdin ...` has it."""
    code = (
        "import sys; from fence_core.policy.sources.discover import discover;"
        "print(discover('/', settings='/dev/stdin').config.policy.network.allowed_domains[0].text)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], input=said("piped.test"), capture_output=True, text=True, check=True
    )
    assert ran.stdout == "piped.test\n"


def test_a_template(places: Places) -> None:
    write(places.project / "fence.json", "{")
    found = places.discover(template="offline")
    assert (found.how, found.chain) == ("template", ("template offline", *COMMAND))
    assert Judge(found.config.policy).may_write(f"{places.deep}/x")
    assert not Judge(found.config.policy).may_write("/opt/x")
    text = places.errors(template="nosuch")
    assert '"nosuch" is not a template' in text
    assert "code, code-relaxed" in text


def test_what_relative_paths_count_from(places: Places) -> None:
    """In a project's file from its directory, as for pytest; in everything else from where the command is started."""
    text = json.dumps({"filesystem": {"allowWrite": ["."], "denyWrite": [".env"]}})
    write(places.project / "fence.json", text)
    judge = Judge(places.discover().config.policy)
    assert judge.may_write(f"{places.project}/x")
    assert not judge.may_write(f"{places.project}/a/.env")
    assert not judge.may_write(f"{places.home}/x")
    for how in ({"settings": str(places.project / "fence.json")}, {"project": False}):
        write(places.home / ".config/fence/fence.json", text)
        judge = Judge(places.discover(**how).config.policy)
        assert judge.may_write(f"{places.deep}/x")
        assert not judge.may_write(f"{places.project}/x")
        assert not judge.may_write(f"{places.home}/.config/fence/x")


def test_flags_have_the_last_word(places: Places) -> None:
    write(places.project / "fence.json", said("own.test"))
    flags = [
        ("--allow-domain", {"network": {"allowed_domains": ["flag.test"]}}),
        ("--allow-write", {"filesystem": {"allow_write": ["out"]}}),
    ]
    found = places.discover(flags=flags, locked=["/srv/log"])
    assert domains(found) == ["own.test", "flag.test"]
    decision = Judge(found.config.policy).decide(Write("open", f"{places.deep}/out"))
    assert decision.allowed
    assert decision.rule.source is not None
    assert decision.rule.source.name == "--allow-write"
    assert "/srv/log" in found.config.policy.filesystem.locked
    assert "--allow-domain: network.allowed_domains[0]" in places.errors(
        flags=[("--allow-domain", {"network": {"allowed_domains": ["*.com"]}})]
    )


def test_no_command_writes_its_own_rules(places: Places) -> None:
    """Neither those that were read, nor any that would be found by the next one."""
    path = write(places.project / "fence.json", json.dumps({"filesystem": {"allowWrite": ["."]}}))
    judge = Judge(places.discover().config.policy)
    assert judge.decide(Write("open", str(path))).why == "protected"
    for name in ("fence.json", "fence.jsonc", "fence.yaml", "fence.yml"):
        assert judge.decide(Write("create", f"{places.deep}/{name}")).why == "protected"
    assert judge.may_write(f"{places.deep}/fences.json")


def test_the_line_of_a_refusal(places: Places) -> None:
    write(places.project / "fence.json", '{"extends": "code",\n"network": {\n"deniedDomains": ["evil.test"]}}')
    rule = Judge(places.discover().config.policy).decide(Connect("evil.test", 443)).rule
    assert rule.source is not None
    where = located(rule.source)
    assert (where.name, where.line) == (f"{places.project}/fence.json", 3)
    judge = Judge(places.discover().config.policy)
    rule = judge.decide(Connect("api.github.com", 443)).rule
    assert str(rule.source) == "template code"


def denied(found: Discovered) -> list[str]:
    return [entry.text for entry in found.config.policy.command.deny]


def test_commands_about_the_whole_machine(places: Places) -> None:
    found = places.discover()
    assert {"reboot", "mkfs.ext4", "dd if=", "unshare", "docker run --privileged"} <= set(denied(found))
    assert {entry.source.name for entry in found.config.policy.command.deny} == {"the defaults"}
    assert [source.name for source in found.config.policy.sources] == ["template default-deny", "template command"]
    write(places.project / "fence.json", json.dumps({"command": {"deny": ["git push"], "useDefaults": False}}))
    assert denied(places.discover()) == ["git push"]
    write(places.project / "fence.json", json.dumps({"command": {"deny": ["git push"], "allow": ["chroot"]}}))
    found = places.discover()
    assert denied(found)[0] == "git push"
    judge = Judge(found.config.policy)
    words = {
        ("git", "push"): False, ("git", "status"): True, ("chroot", "/x"): True, ("unshare", "-n"): False,
        ("dd", "of=x", "if=y"): False, ("dd", "--version"): True,
    }  # fmt: skip
    for (name, *rest), allowed in words.items():
        assert judge.decide(Execute((name, *rest), (Reading((name,), tuple(rest)),))).allowed is allowed, name
    assert not find_config(places.project).policy.command.deny[1:], "pytest has none but those that are listed"


def test_templates_that_deny_commands(places: Places) -> None:
    for name in ("code", "code-relaxed", "git-readonly"):
        assert {"git push", "git rebase", "reboot"} <= set(denied(places.discover(template=name)))
    assert "sudo" in denied(places.discover(template="code"))
    assert "git push" not in denied(places.discover(template="ci"))


def test_every_template(places: Places) -> None:
    for name in ("command", "code", "code-relaxed", "git-readonly", "local-dev-server", "disable-telemetry",
                 "django", "offline", "ci"):  # fmt: skip
        judge = Judge(places.discover(template=name).config.policy)
        for path in "/dev/null", "/dev/shm/x", "/dev/ptmx", "/proc/self/oom_score_adj":
            assert judge.may_write(path), (name, path)
        assert judge.may_write(f"{places.deep}/x") is (name != "command")
        assert not judge.may_write("/opt/x")
        assert not judge.may_write(f"{places.deep}/.git/hooks/pre-commit")
        assert judge.may_write(f"{places.deep}/.git/index") is (name not in ("command", "git-readonly"))
        assert judge.may_write(f"{places.deep}/.env") is (name not in ("command", "code", "code-relaxed"))
        assert judge.may_read(f"{places.home}/.ssh/id_ed25519") is (name not in ("code", "code-relaxed", "ci"))
        by_name = judge.decide(Connect("api.example.com", 443)).allowed
        assert by_name is (name in ("code-relaxed", "disable-telemetry"))
        assert judge.decide(Connect("pypi.org", 443)).allowed is (by_name or name in ("code", "ci"))
        assert not judge.decide(Connect("169.254.169.254", 80, name="metadata.google.internal")).allowed
        assert not judge.decide(Connect("o1.sentry.io", 443)).allowed
        assert not judge.decide(Connect("93.184.216.34", 443)).allowed
        loopback = judge.decide(Connect("127.0.0.1", 5432)).allowed
        assert loopback is (name not in ("command", "git-readonly", "offline"))
