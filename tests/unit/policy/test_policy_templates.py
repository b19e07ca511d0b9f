"""What the built-in policies allow, asked as the broker asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from fence_core.errors import PolicyError
from fence_core.policy.compiler import Links
from fence_core.policy.decide import Judge
from fence_core.policy.model import Source
from fence_core.policy.requests import Bind, Connect, Read, Request, Resolve, UnixConnect, Write
from fence_core.policy.sources.merge import merge
from fence_core.policy.sources.templates import TemplateContext, preset
from fence_core.policy.sources.validate import parse_overlay
from fence_core.policy.variables import matcher
from fence_core.report.rule import sentence

CONTEXT = TemplateContext(
    root="/home/ci/pro[j]*",
    temp_dirs=("/tmp", "/var/tmp", "/mnt/tmp"),
    home="/home/ci",
    cache_dir="/home/ci/pro[j]*/.pytest_cache",
    extra_write=("/home/ci/reports/junit.xml", "/home/ci/pro[j]*/htmlcov"),
)
ROOT = CONTEXT.root
DEFAULT, PYTEST, STRICT = "default-deny", "pytest", "strict"


def judge(name: str) -> Judge:
    return Judge(preset(name, CONTEXT).policy, links=Links(lambda path: None))


@pytest.mark.parametrize(
    ("path", "allowed_by"),
    [
        ("/dev/null", {DEFAULT, PYTEST, STRICT}),
        ("/dev/full", {DEFAULT, PYTEST, STRICT}),
        ("/dev/stdout", {DEFAULT, PYTEST, STRICT}),
        ("/dev/fd/3", {DEFAULT, PYTEST, STRICT}),
        ("/dev/tty", {DEFAULT, PYTEST, STRICT}),
        ("/dev/urandom", {PYTEST, STRICT}),
        ("/dev/ptmx", {PYTEST, STRICT}),
        ("/dev/pts/7", {PYTEST, STRICT}),
        ("/dev/shm/sem.x", {PYTEST, STRICT}),
        ("/dev/shm/repo/.git/config", {PYTEST, STRICT}),
        ("/dev/sda", set()),
        ("/dev/mem", set()),
        ("/dev/nullx", set()),
        ("/tmp/x", {PYTEST, STRICT}),
        ("/var/tmp/x/y", {PYTEST, STRICT}),
        ("/mnt/tmp/x", {PYTEST, STRICT}),
        ("/tmp", set()),
        ("/tmp/x/.git/config", {PYTEST, STRICT}),
        ("/tmpx", set()),
        (f"{ROOT}/x", {PYTEST}),
        (f"{ROOT}/src/x.py", {PYTEST}),
        (ROOT, set()),
        ("/home/ci/proj/x", set()),  # what the root would match, were it a pattern
        (f"{ROOT}/.git/index", {PYTEST}),
        (f"{ROOT}/.git/hooks/pre-commit", set()),
        (f"{ROOT}/.vscode/settings.json", set()),
        (f"{ROOT}/pyproject.toml", set()),
        (f"{ROOT}/sub/pyproject.toml", {PYTEST}),
        (f"{ROOT}/.pytest_cache/v/x", {PYTEST, STRICT}),
        (f"{ROOT}/pytest-cache-files-abc123/x", {PYTEST, STRICT}),
        (f"{ROOT}/.coverage", {PYTEST, STRICT}),
        (f"{ROOT}/.coverage.host.123.abc", {PYTEST, STRICT}),
        (f"{ROOT}/sub/.coverage", {PYTEST, STRICT}),
        (f"{ROOT}/.coveragerc", set()),
        (f"{ROOT}/.hypothesis/examples/x", {PYTEST, STRICT}),
        (f"{ROOT}/src/__pycache__/a.pyc", {PYTEST, STRICT}),
        (f"{ROOT}/htmlcov/index.html", {PYTEST, STRICT}),
        ("/usr/lib/python3/x/__pycache__/a.pyc", set()),
        ("/usr/lib/python3/x/a.pyc", set()),
        ("/home/ci/reports/junit.xml", {PYTEST, STRICT}),
        ("/home/ci/reports/other.xml", set()),
        ("/home/ci/.bashrc", set()),
        ("/home/ci/.cache/x", set()),
        ("/etc/passwd", set()),
        ("/proc/self/comm", {PYTEST, STRICT}),
        ("/proc/self/task/123/comm", {PYTEST, STRICT}),
        ("/proc/self/oom_score_adj", {PYTEST, STRICT}),
        ("/proc/self/coredump_filter", {PYTEST, STRICT}),
        ("/proc/self/mem", set()),
        ("/proc/1/oom_score_adj", set()),
        ("/proc/sys/kernel/core_pattern", set()),
        ("/sys/x", set()),
        ("/", set()),
    ],
)
def test_what_may_be_written(path: str, allowed_by: set[str]) -> None:
    assert {name for name in (DEFAULT, PYTEST, STRICT) if judge(name).may_write(path)} == allowed_by


@pytest.mark.parametrize(
    ("request_", "allowed_by"),
    [
        (Bind("127.0.0.1", 0), {PYTEST, STRICT}),
        (Bind("0.0.0.0", 8000), {PYTEST, STRICT}),
        (Bind("192.0.2.1", 80), set()),
        (Connect("127.0.0.1", 5432), {PYTEST, STRICT}),
        (Connect("93.184.216.34", 443), set()),
        (Resolve("pypi.org"), set()),
        (Resolve("localhost"), {DEFAULT, PYTEST, STRICT}),
        (UnixConnect("/run/docker.sock"), set()),
        (UnixConnect("/tmp/x.sock", inside=True), {DEFAULT, PYTEST, STRICT}),
    ],
)
def test_whom_the_tests_may_talk_to(request_: Request, allowed_by: set[str]) -> None:
    assert {name for name in (DEFAULT, PYTEST, STRICT) if judge(name).decide(request_).allowed} == allowed_by


def test_no_secrets_is_the_default_with_denials() -> None:
    """Nothing more may be written or reached than under `pytest`, nothing less either."""
    base, more = preset(PYTEST, CONTEXT), preset("no-secrets", CONTEXT)
    assert more.policy.network == base.policy.network
    assert more.policy.filesystem._replace(deny_read=()) == base.policy.filesystem
    assert (base.settings.env_deny, base.policy.filesystem.deny_read) == ((), ())


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("/home/ci/.aws/credentials", True),
        ("/home/ci/.ssh/id_ed25519", True),
        ("/home/ci/.config/gcloud/application_default_credentials.json", True),
        ("/home/ci/.docker/config.json", True),
        ("/home/ci/.netrc", True),
        ("/etc/shadow", True),
        ("/run/secrets/kubernetes.io/serviceaccount/token", True),
        ("/home/ci/.docker/contexts/meta.json", False),
        ("/home/ci/.gitconfig", False),
        ("/home/ci/.claude/settings.json", False),
        ("/home/ci/project/.env", False),
        ("/home/ci/project/tests/.netrc", False),
        ("/etc/passwd", False),
    ],
)
def test_files_that_no_secrets_keeps(path: str, kept: bool) -> None:
    it = judge("no-secrets")
    assert it.may_read(path) is not kept
    assert it.decide(Read(path)).allowed is not kept


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("GITHUB_TOKEN", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("AWS_SESSION_TOKEN", True),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", True),
        ("GOOGLE_APPLICATION_CREDENTIALS", True),
        ("AZURE_CLIENT_SECRET", True),
        ("OPENAI_API_KEY", True),
        ("TWINE_PASSWORD", True),
        ("ACTIONS_ID_TOKEN_REQUEST_URL", True),
        ("SLACK_WEBHOOK_URL", True),
        ("SSH_AUTH_SOCK", True),
        ("AWS_REGION", False),
        ("AWS_CA_BUNDLE", False),
        ("AWS_PROFILE", False),
        ("GPG_KEY", False),  # which key Python was signed with, in its official images
        ("DATABASE_URL", False),  # mostly that of a database for the tests
        ("PGPASSWORD", False),
        ("PATH", False),
        ("HOME", False),
        ("TOKENIZERS_PARALLELISM", False),
        ("GITHUB_ACTIONS", False),
        ("PYTEST_ADDOPTS", False),
        ("PYTHONPATH", False),
    ],
)
def test_variables_that_no_secrets_keeps(name: str, kept: bool) -> None:
    assert matcher(preset("no-secrets", CONTEXT).settings.env_deny)(name) is kept


def test_decisions_name_the_preset() -> None:
    assert "(preset pytest)" in sentence(judge(PYTEST).decide(Write("open", "/etc/x")))
    assert "(preset strict)" in sentence(judge(STRICT).decide(Bind("127.0.0.1", 1)))


def test_an_unknown_template_lists_ours() -> None:
    with pytest.raises(
        PolicyError, match=r'"hermes" is not a template.*"pytest", "browser", "strict", .*"code", .*"ci"'
    ):
        preset("hermes", CONTEXT)


def test_the_context_of_this_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    monkeypatch.setattr("tempfile.tempdir", str(link))
    monkeypatch.setenv("HOME", "/home/x")
    context = TemplateContext.of_run(tmp_path, extra_write=["junit.xml", "/abs"], extra_temp_dirs=["/base"])
    assert context.root == str(tmp_path)
    assert {str(real), str(link), "/tmp", "/var/tmp", "/base"} <= set(context.temp_dirs)
    assert context.home == "/home/x"
    assert context.cache_dir == f"{tmp_path}/.pytest_cache"
    assert context.extra_write == (f"{tmp_path}/junit.xml", "/abs")


def test_a_project_that_python_takes_for_the_temporary_directory_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing else is writable, `tempfile` falls back to the working directory."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert str(tmp_path) not in TemplateContext.of_run(tmp_path).temp_dirs
    assert str(tmp_path) in TemplateContext.of_run(tmp_path / "proj").temp_dirs


def test_a_root_that_is_the_whole_disk() -> None:
    """As in a container whose project lies in `/`."""
    context = CONTEXT._replace(root="/", cache_dir="/.pytest_cache")
    it = Judge(preset(PYTEST, context).policy, links=Links(lambda path: None))
    assert it.may_write("/x/y")
    assert not it.may_write("/x/.git/hooks/y")
    assert not it.may_write("/pyproject.toml")


@pytest.mark.parametrize("name", [DEFAULT, PYTEST, STRICT])
@pytest.mark.parametrize(
    "op", ["unlink", "rename", "link", "symlink", "mkdir", "mknod", "chmod", "chown", "create", "bind"]
)
def test_devices_are_opened_only(name: str, op: str) -> None:
    it = judge(name)
    for path in ("/dev/null", "/dev/tty", "/dev/stdout", "/dev/fd/3"):
        assert it.may_write(path)
        assert not it.may_write(path, op)
        decision = it.decide(Write(op, path))
        assert (decision.allowed, decision.why) == (False, "impossible")


@pytest.mark.parametrize("op", ["open", "unlink", "rename", "create", "chmod", "bind"])
def test_files_in_dev(op: str) -> None:
    it = judge(PYTEST)
    assert it.may_write("/dev/shm/x", op)
    assert it.may_write("/dev/mqueue/x", op)
    assert it.may_write("/proc/self/comm", op) == (op == "open")


def test_terminals_by_name() -> None:
    """A pattern means those of the run; another one has to be named."""
    it = judge(PYTEST)
    assert it.may_write("/dev/pts/7")
    assert not it.decide(Write("terminal", "/dev/pts/7")).allowed
    overlay = parse_overlay({"allow_write": ["/dev/pts/7"]}, source=Source("a marker"), base_dir=ROOT)
    named = Judge(merge(preset(PYTEST, CONTEXT).policy, overlay), links=Links(lambda path: None))
    assert named.decide(Write("terminal", "/dev/pts/7")).allowed
    assert not named.decide(Write("terminal", "/dev/pts/8")).allowed
    assert not named.decide(Write("chmod", "/dev/pts/7")).allowed


@pytest.mark.parametrize(
    "path", ["/dev/shm/x", "/dev/ptmx", "/dev/pts/3", "/proc/self/comm", "/proc/self/oom_score_adj", "/dev/null"]
)
def test_command(path: str) -> None:
    it = judge("command")
    assert it.may_write(path)
    assert not it.may_write("/tmp/x")
    assert not it.may_write(f"{ROOT}/x")
    assert not it.decide(Bind("127.0.0.1", 80)).allowed


def test_processes_outside_cannot_be_allowed() -> None:
    """Whoever asks about those inside says /proc/self."""
    overlay = parse_overlay(
        {"allow_write": ["/proc/*/comm", "/proc/12/comm"]}, source=Source("a marker"), base_dir=ROOT
    )
    it = Judge(merge(preset(DEFAULT, CONTEXT).policy, overlay), links=Links(lambda path: None))
    assert it.may_write("/proc/self/comm")
    assert not it.may_write("/proc/12/comm")
    assert it.decide(Write("open", "/proc/12/comm")).why == "impossible"
