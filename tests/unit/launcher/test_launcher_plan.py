"""What a fence consists of, for every config and kernel: decided without either."""

from __future__ import annotations

import itertools

import pytest

from fence_core.kernel import landlock
from fence_core.kernel.features import NAMES, Feature, Features
from fence_core.launcher import child
from fence_core.launcher.plan import Facts, Host, Plan, make_plan
from fence_core.link.start import Walls
from fence_core.policy.model import Config, Entry, FilesystemRules, Policy, Settings, Source

SOURCE = Source("test.toml")
NEWEST = 7
NOBODY = Facts()


def features(*missing: str, abi: int = NEWEST) -> Features:
    return Features((Feature(name, name not in missing, "") for name in NAMES), abi)


def plan(
    found: Features | None = None, facts: Facts = NOBODY, deny_read: tuple[str, ...] = (), **settings: object
) -> Plan:
    files = FilesystemRules(deny_read=tuple(Entry(text, SOURCE) for text in deny_read))
    config = Config(Policy(filesystem=files), Settings(**settings), "test.toml")
    return make_plan(config, features() if found is None else found, facts, Host("it"))


def patterns(*texts: str) -> tuple[Entry, ...]:
    return tuple(Entry(text, SOURCE) for text in texts)


def test_everything_on_a_new_kernel() -> None:
    found = plan()
    assert found.layers == ("seccomp", "landlock 7")
    assert found.walls == Walls(wait_killable=True, signal_scope=True, network_floor=True, file_floor=True)
    assert found.closes_fds
    assert not found.watches_reads


def test_an_audit_changes_nothing_that_a_test_could_see() -> None:
    found = plan(mode="audit", env_deny=patterns("*"), facts=Facts(inspects=True, variables=("A",)))
    assert not found.walls.network_floor
    assert not found.walls.file_floor
    assert not found.closes_fds
    assert found.withheld == ()
    assert not found.watches_reads
    # What it is ended by and who may signal whom is no matter of rules.
    assert found.walls.signal_scope


def test_a_warning_run_has_the_floors() -> None:
    assert plan(mode="warn").walls == plan().walls


@pytest.mark.parametrize(
    ("missing", "abi", "layers", "files", "scopes"),
    [
        ((), 7, ("seccomp", "landlock 7"), True, True),
        (("landlock_scopes",), 5, ("seccomp", "landlock 5"), True, False),
        (("landlock_scopes",), 2, ("seccomp", "landlock 2"), True, False),
        (("landlock_scopes",), 1, ("seccomp",), False, False),  # no file could be moved to another directory
        (("landlock", "landlock_scopes"), 0, ("seccomp",), False, False),
    ],
)
def test_what_an_older_kernel_lacks(
    missing: tuple[str, ...], abi: int, layers: tuple[str, ...], files: bool, scopes: bool
) -> None:
    found = plan(features(*missing, abi=abi))
    assert found.layers == layers
    assert (found.walls.file_floor, found.walls.signal_scope) == (files, scopes)


def test_waiting_calls_are_interrupted_where_the_kernel_knows_no_better() -> None:
    assert not plan(features("wait_killable")).walls.wait_killable


@pytest.mark.parametrize(
    ("settings", "facts", "watched"),
    [
        ({}, Facts(), False),
        ({"watch_reads": True}, Facts(), True),
        ({"deny_read": ("/etc/secret",)}, Facts(), True),
        ({"env_deny": patterns("TOKEN")}, Facts(), False),  # Landlock closes the environment of processes outside
        ({"env_deny": patterns("TOKEN")}, Facts(inspects=True), True),  # not to those
        ({}, Facts(inspects=True), False),
        ({"watch_reads": True, "mode": "audit"}, Facts(), True),
    ],
)
def test_when_reads_are_watched(settings: dict[str, object], facts: Facts, watched: bool) -> None:
    assert plan(facts=facts, **settings).watches_reads is watched  # type: ignore[arg-type]


def test_variables_are_withheld_by_their_names() -> None:
    facts = Facts(variables=("PATH", "TOKEN", "MY_TOKEN", "TOKENS"))
    assert plan(facts=facts, env_deny=patterns("*TOKEN")).withheld == ("MY_TOKEN", "TOKEN")
    assert plan(facts=facts).withheld == ()


def test_what_only_passes_through() -> None:
    found = plan(keep_fds=(5, 9), leftovers="wait", facts=Facts(as_root=True))
    assert (found.kept_fds, found.leftovers, found.as_root) == ((5, 9), "wait", True)
    assert found.host == Host("it", (0,), 1, 2, ())


def test_it_can_be_printed_and_compared() -> None:
    found = plan(env_deny=patterns("T*"), facts=Facts(variables=("T",)))
    assert "file_floor=True" in repr(found)
    assert "withheld=('T',)" in repr(found)
    assert found == plan(env_deny=patterns("T*"), facts=Facts(variables=("T",)))
    assert found != plan()


# ---------------------------------------------------------------- the tests' own domain

ALL_WALLS = [Walls(True, *rest) for rest in itertools.product((False, True), repeat=3)]


@pytest.mark.parametrize("walls", ALL_WALLS, ids=str)
def test_the_inner_domain_has_what_the_walls_say(walls: Walls) -> None:
    found = child.inner(walls)
    if not walls.signal_scope and not walls.file_floor:
        assert found is None
        return
    assert found is not None
    assert bool(found.scopes & landlock.SCOPE_SIGNAL) is walls.signal_scope
    assert bool(found.scopes & landlock.SCOPE_ABSTRACT_UNIX_SOCKET) is walls.signal_scope
    # Networks came before scopes: a kernel that has those has both.
    assert bool(found.network) is (walls.network_floor and walls.signal_scope)
    assert bool(found.files & landlock.ACCESS_FS_WRITE_FILE) is walls.file_floor
    assert found.files & landlock.ACCESS_FS_REFER, "else no file could be moved by programs with rulesets of their own"


def test_the_floor_lets_files_be_read_and_truncated() -> None:
    """The broker truncates by path itself; opens for reading would walk the path."""
    found = child.inner(ALL_WALLS[-1])
    assert found is not None
    for free in (landlock.ACCESS_FS_READ_FILE, landlock.ACCESS_FS_READ_DIR, landlock.ACCESS_FS_EXECUTE,
                 landlock.ACCESS_FS_TRUNCATE, landlock.ACCESS_FS_IOCTL_DEV):  # fmt: skip
        assert not found.files & free
