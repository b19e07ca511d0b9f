"""Rulesets on the real kernel: what is handled and not allowed is refused, everything else goes on."""

from __future__ import annotations

import errno
import os
import signal
import socket

import pytest

from fence_core.errors import KernelCallError
from fence_core.kernel import features, landlock, libc
from tests.kernel.children import adopt_orphans, ended

pytestmark = pytest.mark.needs("kernel:landlock")

WRITES = landlock.ACCESS_FS_WRITE_FILE | landlock.ACCESS_FS_MAKE_REG | landlock.ACCESS_FS_REFER


def bind(handled_fs: int = 0, handled_net: int = 0, scoped: int = 0, rules=()) -> None:
    ruleset = landlock.create_ruleset(handled_fs, handled_net, scoped)
    for path, access in rules:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        landlock.add_path_rule(ruleset, fd, access)
        os.close(fd)
    libc.set_no_new_privs()
    landlock.restrict_self(ruleset)
    os.close(ruleset)


def outcome(function, *args) -> int:
    """0, or the errno of what was refused."""
    try:
        result = function(*args)
    except OSError as error:
        return error.errno or -1
    if isinstance(result, int) and function in (os.open, os.dup):
        os.close(result)
    return 0


def create(path) -> int:
    return outcome(os.open, path, os.O_WRONLY | os.O_CREAT)


def test_abi_is_what_the_features_say() -> None:
    assert landlock.abi_version() == features.detect().landlock_abi >= 1


@pytest.mark.parametrize("abi_part", ["fs", "all that this kernel knows"])
def test_writes_outside_are_refused_and_inside_allowed(in_child, tmp_path, abi_part) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    scoped = landlock.SCOPE_SIGNAL if abi_part != "fs" and landlock.abi_version() >= landlock.ABI_SCOPES else 0

    def work() -> list[int]:
        control = create(tmp_path / "out" / "before")
        bind(WRITES, scoped=scoped, rules=[(tmp_path / "in", WRITES)])
        return [
            control,
            create(tmp_path / "in" / "new"),
            create(tmp_path / "out" / "new"),
            outcome(os.open, tmp_path / "out" / "old", os.O_RDWR),
            outcome(os.open, tmp_path / "out" / "old", os.O_RDONLY),
            outcome(os.mkdir, tmp_path / "out" / "not handled"),
        ]

    assert in_child(work) == [0, 0, errno.EACCES, errno.EACCES, 0, 0]
    assert (tmp_path / "out" / "before").exists()
    assert not (tmp_path / "out" / "new").exists()


def test_file_rule_allows_that_file_only(in_child, tmp_path) -> None:
    (tmp_path / "one").write_text("")
    (tmp_path / "two").write_text("")

    def work() -> list[int]:
        rule = (tmp_path / "one", landlock.ACCESS_FS_WRITE_FILE)
        bind(WRITES, rules=[rule])
        return [outcome(os.open, tmp_path / name, os.O_WRONLY) for name in ("one", "two")]

    assert in_child(work) == [0, errno.EACCES]


@pytest.mark.parametrize("refer", [True, False])
def test_moving_between_directories_needs_refer(in_child, tmp_path, refer) -> None:
    if landlock.abi_version() < 2:
        pytest.skip("kernel: no landlock REFER")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "file").write_text("")
    access = WRITES | landlock.ACCESS_FS_REMOVE_FILE
    if not refer:
        access &= ~landlock.ACCESS_FS_REFER

    def work() -> list[int]:
        bind(access, rules=[(tmp_path, access)])
        return [
            outcome(os.rename, tmp_path / "a" / "file", tmp_path / "a" / "renamed"),
            outcome(os.rename, tmp_path / "a" / "renamed", tmp_path / "b" / "moved"),
        ]

    assert in_child(work) == [0, 0 if refer else errno.EXDEV]


@pytest.mark.needs("kernel:landlock_network")
def test_connecting_by_tcp(in_child) -> None:
    """As the floor has it: no port is allowed, and what is not handled is."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def connect() -> int:
            with socket.socket() as client:
                return outcome(client.connect, server.getsockname())

        def work() -> list[int]:
            control = connect()
            bind(handled_net=landlock.ACCESS_NET_CONNECT_TCP)
            with socket.socket() as other:
                return [control, connect(), outcome(other.bind, ("127.0.0.1", 0))]

        assert in_child(work) == [0, errno.EACCES, 0]


@pytest.mark.needs("kernel:landlock_scopes")
def test_signal_scope(in_child, start) -> None:
    """A process outside cannot be signalled, one forked inside can."""
    ready = os.pipe()
    outside = start(lambda: (os.write(ready[1], b"!"), signal.pause()))
    os.read(ready[0], 1)

    def work() -> tuple[int, int, int]:
        before = outcome(os.kill, outside.pid, 0)
        bind(scoped=landlock.SCOPE_SIGNAL)
        inside = os.fork()
        if inside == 0:
            signal.pause()
        after = outcome(os.kill, outside.pid, signal.SIGKILL)
        own = outcome(os.kill, inside, signal.SIGKILL)
        os.waitpid(inside, 0)
        return before, after, own

    assert in_child(work) == (0, errno.EPERM, 0)
    assert not ended(outside.pidfd, 0)
    for fd in ready:
        os.close(fd)


@pytest.mark.needs("kernel:landlock_scopes")
def test_kill_all_reaches_the_inner_domain_only(in_child) -> None:
    """The guardian's move: from an outer domain it ends everything in the inner ones, daemons included."""

    def work() -> list[bool]:
        from fence_core.kernel import pidfd

        adopt_orphans()
        bystander_ready, ready, hold = os.pipe(), os.pipe(), os.pipe()

        def wait_for_ever(fd: int) -> None:
            os.write(fd, b"%d " % os.getpid())
            os.close(hold[1])
            os.read(hold[0], 1)
            libc.exit_now(0)

        bystander = os.fork()
        if bystander == 0:
            wait_for_ever(bystander_ready[1])
        os.read(bystander_ready[0], 20)
        guardian = os.fork()
        if guardian == 0:
            bind(scoped=landlock.SCOPE_SIGNAL)
            fenced = os.fork()
            if fenced == 0:
                bind(scoped=landlock.SCOPE_SIGNAL)
                if os.fork() == 0:
                    os.setsid()
                    if os.fork() == 0:
                        os.setsid()
                        wait_for_ever(ready[1])
                    libc.exit_now(0)
                signal.pause()
            daemon = os.read(ready[0], 20)
            os.write(ready[1], daemon)
            os.read(ready[0], 0)
            if outcome(os.kill, bystander, 0) != errno.EPERM:
                libc.exit_now(1)  # not confined: the next line would end the machine's other processes
            # -1: every process it may signal, but for itself
            os.kill(-1, signal.SIGKILL)
            os.waitpid(fenced, 0)
            libc.exit_now(0)
        os.waitpid(guardian, 0)
        daemon = pidfd.open_pidfd(int(os.read(ready[0], 20)))
        held = pidfd.open_pidfd(bystander)
        found = [ended(daemon), ended(held, 0)]
        os.close(hold[1])
        while True:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return found

    assert in_child(work) == [True, False]


@pytest.mark.needs("kernel:landlock_scopes")
def test_abstract_socket_scope(in_child) -> None:
    name = f"\0fence-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()

        def connect() -> int:
            with socket.socket(socket.AF_UNIX) as client:
                return outcome(client.connect, name)

        def work() -> tuple[int, int]:
            before = connect()
            bind(scoped=landlock.SCOPE_ABSTRACT_UNIX_SOCKET)
            return before, connect()

        assert in_child(work) == (0, errno.EPERM)


def test_seventeenth_layer_is_refused_with_a_clear_message(in_child) -> None:
    def work() -> tuple[int, int | None, str]:
        for layers in range(40):
            try:
                bind(WRITES)
            except KernelCallError as error:
                return layers, error.errno, str(error)
        return 40, None, ""

    layers, number, text = in_child(work)
    assert number == errno.E2BIG
    assert 1 <= layers <= 16  # 16, less those this process had from the start
    assert "16 Landlock rulesets" in text


def test_no_new_privs_is_needed_and_named(in_child) -> None:
    from tests.kernel.children import become_user

    def work() -> tuple[int | None, str]:
        become_user()
        ruleset = landlock.create_ruleset(WRITES)
        try:
            landlock.restrict_self(ruleset)
        except KernelCallError as error:
            return error.errno, str(error)
        return None, ""

    refused, text = in_child(work)
    if refused is None:
        pytest.skip("elsewhere: this process had no_new_privs from the start")
    assert refused == errno.EPERM
    assert "set_no_new_privs" in text


@pytest.mark.parametrize(
    ("call", "number"),
    [
        (lambda: landlock.create_ruleset(), errno.ENOMSG),
        (lambda: landlock.create_ruleset(1 << 60), errno.EINVAL),
        (lambda: landlock.add_path_rule(landlock.create_ruleset(WRITES), 0, 1 << 60), errno.EINVAL),
        (lambda: landlock.add_path_rule(landlock.create_ruleset(WRITES), 0, 0), errno.ENOMSG),
        (lambda: landlock.restrict_self(1 << 20), errno.EBADF),
    ],
)
def test_senseless_requests_are_refused(in_child, call, number) -> None:
    def work() -> int | None:
        libc.set_no_new_privs()
        os.dup2(os.open("/", os.O_PATH), 0)
        try:
            call()
        except KernelCallError as error:
            return error.errno
        return None

    assert in_child(work) == number
