"""Other kernels and another architecture, in an emulator (qemu): kernels of Debian's packages on a root of `roots.py`.

All of a row's jobs run in one start. Without hardware acceleration that takes half a minute, and programs take ten
times as long as here. Needs root, qemu-system-x86 (qemu-system-arm, qemu-user-static), debootstrap and cpio.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import re
import shlex
import shutil
import subprocess
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from tests.machines import roots
from tests.machines.roots import UnavailableError

SECONDS = 3600  # a machine that has not ended by then hangs
PATIENCE = 10  # tests may take so many times as long
STARTS = 3  # the emulator itself fails now and then, before a job has begun
MODULES = "/kernel-modules"
Jobs = Sequence[Sequence[str]]
BEGUN, ENDED = "=== machine started", "=== machine ended"
INIT = f"""#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts; mount -t tmpfs -o mode=1777 tmp /dev/shm; mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs run /run; ip link set lo up
echo "{BEGUN}"
sh /jobs
echo "{ENDED}"
echo o >/proc/sysrq-trigger; sleep 9
"""
EMULATORS = {
    "amd64": ("qemu-system-x86_64", "-cpu", "max,la57=off,pku=off"),
    "arm64": ("qemu-system-aarch64", "-M", "virt", "-cpu", "max"),
}
CONSOLES = {"amd64": "ttyS0", "arm64": "ttyAMA0"}


def kernel(arch: str, suite: str) -> Path:
    """A directory with the kernel of a suite of Debian's, as its packages have it."""
    to = roots.place() / f"kernel-{suite}-{arch}"
    if (to / ".complete").exists():
        return to
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir()
    mirror = roots.mirror()
    with urllib.request.urlopen(f"{mirror}/dists/{suite}/main/binary-{arch}/Packages.xz") as answer:
        listed = lzma.decompress(answer.read()).decode()
    found: dict[str, list[tuple[list[int], str]]] = {}
    for entry in listed.split("\n\n"):
        name = re.match(rf"Package: linux-(image|binary|modules|base)-([\d.]+).*-cloud-{arch}$", entry, re.MULTILINE)
        file = re.search(r"^Filename: (.*)$", entry, re.MULTILINE)
        if name and file:
            found.setdefault(name[1], []).append(([int(part) for part in re.findall(r"\d+", name[0])], file[1]))
    for packages in found.values():  # newer kernels come in several
        urllib.request.urlretrieve(f"{mirror}/{max(packages)[1]}", to / "deb")
        roots.command("dpkg", "-x", to / "deb", to, what="unpacking a kernel")
    (to / "deb").unlink(missing_ok=True)
    if not any(to.rglob("vmlinuz*")):
        raise UnavailableError(f"{suite} has no cloud kernel for {arch}")
    (to / ".complete").touch()
    return to


def archive(directory: Path, to: IO[bytes], *, without: Sequence[str] = ()) -> None:
    """Append what lies in a directory, as the kernel unpacks it."""
    leave = " ".join(f"-not -path './{name}/*'" for name in without)
    script = f"find . -xdev {leave} | cpio -o -H newc --quiet"
    subprocess.run(["sh", "-c", script], cwd=directory, stdout=to, check=True)


def add_modules(root: Path, files: Path, stage: Path) -> None:
    """The network's modules (unix_diag is one), where nobody finds them yet."""
    source = next(files.rglob("kernel/net")).parents[1]
    to = stage / "usr/lib/modules" / source.name
    shutil.copytree(source / "kernel/net", to / "kernel/net")
    for name in ("modules.builtin", "modules.order", "modules.builtin.modinfo"):
        if (source / name).exists():
            shutil.copy(source / name, to / name)
    work = root / "stage"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(stage, work)
    (work / "lib").symlink_to("usr/lib")
    roots.command("chroot", root, "depmod", "-b", "/stage", source.name, what="depmod")
    for made in (work / "usr/lib/modules" / source.name).glob("modules.*"):
        shutil.copy(made, to / made.name)
    shutil.rmtree(work)
    (stage / "usr/lib/modules").rename(stage / MODULES[1:])


def start(arch: str, suite: str, bare: Jobs, whole: Jobs, log: IO[str]) -> None:
    """Start a machine with the kernel of `suite`, and run jobs (arguments of job.py) there one after the other.

    The kernel has no modules when the `bare` ones run. Then it is given them, and the others run.
    """
    roots.need(EMULATORS[arch][0], "cpio", "dpkg")
    files = kernel(arch, suite)
    work = roots.place() / f"start-{suite}-{arch}"
    shutil.rmtree(work, ignore_errors=True)
    stage = work / "stage"
    stage.mkdir(parents=True)
    try:
        first, last = (
            [shlex.join([roots.PYTHON, f"{roots.TREE}/tests/machines/job.py", *job]) for job in jobs]
            for jobs in (bare, whole)
        )
        (stage / "jobs").write_text("\n".join(["cd /", *first, f"mv {MODULES} /usr/lib/modules", *last, ""]))
        (stage / "init").write_text(INIT)
        (stage / "init").chmod(0o755)
        with roots.programs_of(arch):
            root = roots.make(arch, "bookworm", "3.11")
            add_modules(root, files, stage)
        with open(work / "initrd", "wb") as image:
            archive(root, image, without=("usr/share/doc", "usr/share/locale", "usr/share/man", "var/cache", "var/lib"))
            archive(stage, image)
        emulate(arch, next(files.rglob("vmlinuz*")), work / "initrd", log)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def emulate(arch: str, image: Path, initrd: Path, log: IO[str]) -> None:
    options = ["-accel", "tcg,thread=multi", "-m", "4000", "-smp", "1", "-nographic", "-no-reboot"]
    options += ["-kernel", str(image), "-initrd", str(initrd)]
    options += ["-append", f"console={CONSOLES[arch]} quiet panic=-1 no_timer_check mitigations=off rdinit=/init"]
    whole = ["setpriv", "--pdeathsig=KILL", *EMULATORS[arch], *options]
    for _ in range(STARTS):
        log.flush()
        begin = os.fstat(log.fileno()).st_size
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                whole, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=SECONDS, start_new_session=True
            )
        log.seek(begin)
        if BEGUN in log.read():
            break
