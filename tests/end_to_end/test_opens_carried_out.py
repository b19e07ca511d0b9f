"""Files opened where a marker allows it, by the broker: the same file, flags, mode and error as without a fence."""

from __future__ import annotations

import errno

from tests.end_to_end import compared
from tests.end_to_end.caught import Fenced
from tests.end_to_end.test_names_made_carried_out import AS, prepare

FLAGS = (
    "O_WRONLY", "O_RDWR | O_CLOEXEC", "O_WRONLY | O_CREAT", "O_WRONLY | O_CREAT | O_EXCL", "O_CREAT",
    "O_CREAT | O_EXCL", "O_WRONLY | O_TRUNC", "O_TRUNC", "O_RDWR | O_CREAT | O_TRUNC", "O_CREAT | O_DIRECTORY",
    "O_WRONLY | O_DIRECTORY", "O_WRONLY | O_NOFOLLOW", "O_WRONLY | O_CREAT | O_NOFOLLOW", "O_TMPFILE | O_RDWR",
    "O_TMPFILE", "O_TMPFILE | O_CREAT | O_RDWR", "O_WRONLY | O_CREAT | O_APPEND",
    "O_WRONLY | O_NONBLOCK", "O_RDWR | O_CREAT | O_SYNC",
)  # fmt: skip
PATHS = (
    "new", "new/", "f", "f/", "d", "s", "s/", "sd", "dangling", "dangling/", "loop", "missing/new", "f/new", "", ".",
    "n" * 256, "closed/new", "sticky/new", "theirs/x", "sd/new", "setgid/new", "listed/new", "/proc/new", "to closed",
    "unreadable",
)  # fmt: skip
OPENED = {
    f"{path[:30]}: {flags}": f"opened({path!r}, {'|'.join('os.' + flag for flag in flags.split(' | '))})"
    for path in PATHS
    for flags in FLAGS
}
MODES = {
    "modes": "[opened(f'{mode:o}', os.O_CREAT | os.O_WRONLY, mode, umask=0) for mode in (0, 0o1666, 0o2755, 0o7777)]",
    "umask": "[opened(f'{mask:o}', os.O_CREAT | os.O_RDWR, 0o777, umask=mask) for mask in (0, 2, 63, 0o777)]",
    "below setgid": "opened('setgid/new', os.O_CREAT | os.O_WRONLY, 0o2777)",
    "below an access list": "opened('listed/new', os.O_CREAT | os.O_WRONLY, 0o666, umask=0o077)",
    "mode of an unnamed file": "opened('.', os.O_TMPFILE | os.O_RDWR, 0o640, lambda fd: os.fstat(fd).st_mode)",
    "appends": "opened('f', os.O_WRONLY | os.O_APPEND, 0, lambda fd: os.write(fd, b'+'))",
    "writes": "opened('f', os.O_RDWR, 0, lambda fd: [os.write(fd, b'x'), len(os.read(fd, 9)), os.ftruncate(fd, 3)])",
    "creat": "result(libc.creat(b'new', 0o604)) >= 0",
    "descriptor": "[fd := os.open('f', os.O_RDONLY), opened(f'/proc/self/fd/{fd}', os.O_WRONLY)][1]",
    "another's": "opened(f'/proc/{os.getppid()}/cwd/new', os.O_CREAT | os.O_WRONLY)",
    "lowest number": "[os.close(0), result(libc.open(b'new', os.O_CREAT | os.O_WRONLY, 0o600))][1]",
    "pipe both ways": "opened('pipe', os.O_RDWR)",
    "pipe without a reader": "opened('pipe', os.O_WRONLY | os.O_NONBLOCK)",
    "pipe to create": "opened('pipe', os.O_RDWR | os.O_CREAT)",
    "pipe exclusively": "opened('pipe', os.O_RDWR | os.O_CREAT | os.O_EXCL)",
}


@AS
def test_flags(fenced: Fenced, nobody: bool) -> None:
    result = compared.compare(fenced, OPENED, prepare, nobody=nobody)
    wrong = {}
    for call, plain in result.plain.items():
        said, after = plain
        if isinstance(said, list) and not (call.endswith(": O_CREAT") and after == result.before):
            said = -errno.EACCES
        for what, expected, found in ("performed", plain, result.performed), ("refused", (said, None), result.refused):
            if found[call][0] != expected[0] or found[call][1] != (expected[1] or result.before):
                wrong[f"{call}, {what}"] = found[call][0], expected[0]
    assert not wrong, wrong
    result.run.clean("test_performed")


@AS
def test_modes_and_what_is_opened(fenced: Fenced, nobody: bool) -> None:
    result = compared.compare(fenced, MODES, prepare, nobody=nobody)
    for name, plain in result.plain.items():
        assert result.performed[name] == plain, name
    result.run.clean("test_performed")
