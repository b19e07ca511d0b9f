"""POSIX message queues: they work inside as they do without a fence, and are judged as files in /dev/mqueue."""

from __future__ import annotations

import ctypes
import os
import uuid
from collections.abc import Iterator

import pytest

from tests.end_to_end.caught import ONLY_HERE, Fenced

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def name() -> Iterator[str]:
    """Of a queue that is gone afterwards."""
    made = f"/fence-{uuid.uuid4().hex}"
    yield made
    _libc.mq_unlink(made.encode())


_TEST = """
import ctypes, errno, os
import pytest

NAME = {name!r}.encode()
libc = ctypes.CDLL(None, use_errno=True)

class Attributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("flags", "maxmsg", "msgsize", "curmsgs", "a", "b", "c", "d")]

def call(function, *args):
    ctypes.set_errno(0)
    found = function(*args)
    return found if found >= 0 else -ctypes.get_errno()

def open_queue(flags, mode=0o640, attributes=None):
    return call(libc.mq_open, NAME, flags, ctypes.c_uint(mode), attributes)
"""


def test_queue(fenced: Fenced, name: str) -> None:
    run = fenced.run(
        _TEST.format(name=name)
        + """
def test_it():
    os.umask(0o007)
    assert open_queue(os.O_RDWR) == -errno.ENOENT
    wanted = Attributes(0, 3, 64)
    queue = open_queue(os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666, ctypes.byref(wanted))
    assert queue >= 0
    assert not os.get_inheritable(queue)
    assert os.fstat(queue).st_mode & 0o777 == 0o660
    assert (os.fstat(queue).st_uid, os.fstat(queue).st_gid) == (os.getuid(), os.getgid())
    found = Attributes()
    assert libc.mq_getattr(queue, ctypes.byref(found)) == 0
    assert (found.maxmsg, found.msgsize) == (3, 64)
    assert call(libc.mq_send, queue, b"hello", 5, 1) == 0
    assert open_queue(os.O_RDWR | os.O_CREAT | os.O_EXCL) == -errno.EEXIST
    reading = open_queue(os.O_RDONLY)
    buffer = ctypes.create_string_buffer(64)
    assert call(libc.mq_receive, reading, buffer, 64, None) == 5
    assert buffer.value == b"hello"
    assert call(libc.mq_open, b"/a/b", os.O_RDWR | os.O_CREAT, 0o600, None) == -errno.EACCES
    assert call(libc.mq_open, NAME + b"n" * 256, os.O_RDWR | os.O_CREAT, 0o600, None) == -errno.ENAMETOOLONG
    bad = Attributes(0, -1, 64)
    assert call(libc.mq_open, NAME + b"2", os.O_RDWR | os.O_CREAT, 0o600, ctypes.byref(bad)) == -errno.EINVAL
    assert call(libc.mq_unlink, NAME) == 0
    assert call(libc.mq_unlink, NAME) == -errno.ENOENT
""",
        policy=ONLY_HERE.replace('"./*"', '"./*", "/dev/mqueue/*"'),
    )
    run.clean("test_it")


def test_presets_allow_it(fenced: Fenced, name: str) -> None:
    test = """
def test_it():
    assert open_queue(os.O_RDWR | os.O_CREAT) >= 0
    assert call(libc.mq_unlink, NAME) == 0
"""
    run = fenced.run(_TEST.format(name=name) + test, policy="[tool.fence]\n")
    run.clean("test_it")


def test_refused(fenced: Fenced, name: str) -> None:
    outside = f"{name}-outside".encode()
    queue = _libc.mq_open(outside, os.O_RDWR | os.O_CREAT, 0o600, None)
    assert queue >= 0
    try:
        run = fenced.run(
            _TEST.format(name=name)
            + f"""
OUTSIDE = {outside!r}

def test_make():
    assert open_queue(os.O_RDWR | os.O_CREAT) == -errno.EACCES

def test_write():
    assert call(libc.mq_open, OUTSIDE, os.O_WRONLY, 0, None) == -errno.EACCES

def test_remove():
    assert call(libc.mq_unlink, OUTSIDE) == -errno.EACCES

def test_what_the_kernel_refuses():
    assert open_queue(os.O_RDWR) == -errno.ENOENT
    assert call(libc.mq_open, OUTSIDE, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, None) == -errno.EEXIST
    assert call(libc.mq_unlink, NAME) == -errno.ENOENT

def test_read():
    assert call(libc.mq_open, OUTSIDE, os.O_RDONLY, 0, None) >= 0
""",
            policy=ONLY_HERE,
        )
    finally:
        assert _libc.mq_unlink(outside) == 0  # it is still there
        os.close(queue)
    run.refused("test_make", f"write /dev/mqueue{name}")
    run.refused("test_write", f"write /dev/mqueue{outside.decode()}")
    run.refused("test_remove", f"unlink /dev/mqueue{outside.decode()}")
    run.clean("test_what_the_kernel_refuses", "test_read")
