"""Debian root file systems with what a job needs: another kernel's userland, or another Python's.

Kept between runs below `place()`, by default /tmp/fence-machines; remove that directory to be rid of them. Needs root,
debootstrap, and for another architecture qemu-user-static with binfmt-support.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import dev

ROOT = Path(__file__).resolve().parents[2]
TREE = "/tree"  # where the checkout is in there
PYTHON = "/venv/bin/python"
PROGRAMS = "curl,git,ca-certificates,procps,iproute2,kmod,netbase,util-linux"
RUNS_TESTS = ("execnet", "pytest-timeout", "pytest-xdist")  # beside what pytest-fence itself needs
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}  # Debian's names, and Linux's


class UnavailableError(Exception):
    """This machine cannot do what a row needs; says why."""


def place() -> Path:
    directory = Path(os.environ.get("FENCE_MACHINES") or "/tmp/fence-machines")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def need(*programs: str) -> None:
    if os.geteuid() != 0:
        raise UnavailableError("needs root")
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        raise UnavailableError(f"not installed: {', '.join(missing)}")


def mirror() -> str:
    """The one that apt is configured for."""
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*.[ls]*"))]
    text = "\n".join(file.read_text() for file in files if file.exists())
    found = re.search(r"^(?:URIs: *|deb (?:\[.*?\] )?)(http\S+/debian)/?\s", text, re.MULTILINE)
    if found is None:
        raise UnavailableError("apt has no mirror of Debian")
    return found[1]


def command(*words: str | Path, what: str) -> str:
    done = subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise UnavailableError(f"{what} failed:\n{done.stdout[-2000:]}")
    return done.stdout


def make(
    arch: str, suite: str, python: str, *, packages: str = "", sets: Sequence[str] = ("run",), pip: bool = False
) -> Path:
    """A root file system with this checkout in /tree, and an environment of `python` ("3.11") with it in /venv.

    `sets`: those of dev-packages.txt; what runs the tests comes with each. `pip`: the environment has one. What has
    changed since the last run is made anew: all where other packages of Debian's are wanted, the environment where the
    lock is another.
    """
    need("debootstrap")
    root = place() / f"{suite}-{arch}-{python}"
    with_pip = f"python{python}-venv" if pip else ""
    wanted = ",".join(filter(None, (f"python{python}", with_pip, PROGRAMS, packages)))
    system = root / ".system"
    if not says(system, wanted):
        shutil.rmtree(root, ignore_errors=True)
        kept = place() / "debs"
        kept.mkdir(exist_ok=True)
        words = ("debootstrap", f"--arch={arch}", "--variant=minbase", f"--cache-dir={kept}", f"--include={wanted}")
        command(*words, suite, root, mirror(), what=f"making a root file system of {suite}")
        (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
        system.write_text(wanted)
    environment, listed = root / ".environment", requirements(sets)
    if not says(environment, listed):
        environment.unlink(missing_ok=True)
        shutil.rmtree(root / "venv", ignore_errors=True)
        words = ("chroot", root, f"python{python}", "-m", "venv", *([] if pip else ["--without-pip"]), "/venv")
        command(*words, what="making an environment")
        install(root, arch, python, listed)
        environment.write_text(listed)
    renew(root)
    return root


def says(file: Path, text: str) -> bool:
    return file.exists() and file.read_text(encoding="utf-8") == text


def requirements(sets: Sequence[str]) -> str:
    """What pip is to install, as the lock has it: these sets, and what runs tests."""
    text = dev.LOCK.read_text(encoding="utf-8")
    tools = {name: lines for name, lines in dev.entries(dev.locked(text, {"test"})).items() if name in RUNS_TESTS}
    return "".join({**tools, **dev.entries(dev.locked(text, set(sets)))}.values())


def install(root: Path, arch: str, python: str, listed: str) -> None:
    """By this machine's pip: nothing is built, and nothing in the root has to run."""
    machine = MACHINES[arch]
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in (36, 34, 31, 28, 26, 24, 17, 12, 5)]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(listed)
        file.flush()
        there = ("--target", root / f"venv/lib/python{python}/site-packages", "--python-version", python)
        words = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps")
        only = ("--only-binary=:all:", "--require-hashes", *platforms, f"--platform=linux_{machine}")
        command(*words, *there, *only, "--requirement", file.name, what="installing packages")
    for script in (root / f"venv/lib/python{python}/site-packages/bin").iterdir():
        text = re.sub(rb"\A#!.*", f"#!{PYTHON}".encode(), script.read_bytes())
        (root / "venv/bin" / script.name).write_bytes(text)
        (root / "venv/bin" / script.name).chmod(0o755)


@contextlib.contextmanager
def programs_of(arch: str) -> Iterator[None]:
    """Meanwhile this kernel starts programs of that architecture, by qemu-user-static."""
    name, known = f"qemu-{MACHINES[arch]}", Path("/proc/sys/fs/binfmt_misc")
    with contextlib.ExitStack() as undone:
        if arch != native():
            need("update-binfmts")
            if not (known / "register").exists():
                command("mount", "-t", "binfmt_misc", "none", known, what="mounting binfmt_misc")
                undone.callback(command, "umount", known, what="unmounting binfmt_misc")
            if not (known / name).exists():
                command("update-binfmts", "--enable", name, what=f"enabling {name}")
                undone.callback(command, "update-binfmts", "--disable", name, what=f"disabling {name}")
        yield


def renew(root: Path) -> None:
    """The checkout as it is now, and pytest-fence installed from it: a path entry, and what makes it a plugin."""
    tree = root / TREE[1:]
    shutil.rmtree(tree, ignore_errors=True)
    listed = subprocess.run(
        ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"), cwd=ROOT, stdout=subprocess.PIPE
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    site = next((root / "venv/lib").glob("python3*/site-packages"))
    (site / "fence.pth").write_text(f"{TREE}\n")
    record = site / "pytest_fence-0.dist-info"
    record.mkdir(exist_ok=True)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: pytest-fence\nVersion: 0\n")
    (record / "entry_points.txt").write_text("[pytest11]\nfence = pytest_fence.plugin\n")
    inside = (f"{TREE}/fence_core", f"{TREE}/pytest_fence", f"/{site.relative_to(root)}")
    command("chroot", root, PYTHON, "-m", "compileall", "-qq", *inside, what="compiling")


def apart(root: Path, words: Sequence[str]) -> list[str]:
    """A command in there on this kernel, with /sys and /dev of this machine, in namespaces that end with it.

    Not by chroot: the kernel makes no user namespace for a process whose root is not that of its mount namespace.
    Process 1 is a shell, which waits for whatever is left to it.
    """
    script = (
        'mount --bind "$1" "$1"; cd "$1"; shift; mount --rbind /dev dev; mount --rbind /sys sys; '
        "mount -t proc proc proc; mount -t tmpfs -o mode=1777 none tmp; mount -t tmpfs none run; "
        'pivot_root . mnt; cd /; umount --lazy /mnt; "$@" || exit $?; exit 0'
    )
    clean = ("/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8")
    ends = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
    return [*ends, "sh", "-ec", script, "sh", str(root), *clean, *words]


def native() -> str:
    return next(name for name, machine in MACHINES.items() if machine == platform.machine())
