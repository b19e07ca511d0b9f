"""Containers made of this machine's own userland: no image is downloaded, and nothing of the system's is touched.

`Docker` starts a daemon of its own, in a directory, a mount namespace and a process namespace of its own: they end
together, and leave nothing. A container sees the system's programs and this checkout read-only, writes to /tmp, /run
and /srv, and has no network but loopback. Seccomp profile and capabilities are the runtime's defaults:

* ``docker``: those of `dockerd`, as ``docker run`` without options;
* ``podman``: the profile that Debian ships for Podman (containers-common), and Podman's capabilities, given to Docker;
* ``containerd``: those of `containerd`, by its own client; what Kubernetes calls ``RuntimeDefault``.

Needs root, and Debian's docker.io; for ``podman``, golang-github-containers-common.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from tests.machines.roots import UnavailableError

SECONDS = 60.0  # a daemon that does not answer by then never will
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/opt")
WRITABLE = ("/tmp", "/run", "/srv")
PODMAN_PROFILE = Path("/usr/share/containers/seccomp.json")
# Source: containers.conf(5), default_capabilities.
PODMAN_CAPABILITIES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
]
IMAGE = "fence-empty"


def why_not(runtime: str) -> str | None:
    """Why this machine has no such container; None if it has."""
    if os.geteuid() != 0:
        return "needs root"
    for program in ("dockerd", "docker", "containerd", "ctr", "runc", "unshare"):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: docker.io)"
    if runtime == "podman" and not PODMAN_PROFILE.exists():
        return f"no {PODMAN_PROFILE} (Debian: golang-github-containers-common)"
    return None


def shown(extra: Sequence[Path]) -> list[Path]:
    """What a container sees read-only, at the same path: system, interpreter, `extra`; nothing that is in another."""
    interpreter = {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve()}
    places = {Path(name) for name in SYSTEM if Path(name).exists()} | interpreter | {one.resolve() for one in extra}
    return sorted(one for one in places if not any(other in one.parents for other in places))


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


class Docker:
    """A Docker daemon of our own, and its containerd."""

    def __init__(self) -> None:
        self._state = Path(tempfile.mkdtemp(prefix="fdk"))  # short: it holds sockets
        self._socket = self._state / "s"
        self._cgroup = f"fence-machines-{os.getpid()}"
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Docker:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._end()

    def run(
        self,
        runtime: str,
        command: Sequence[str],
        *,
        user: int,
        see: Sequence[Path],
        log: IO[str],
        write: Mapping[Path, Path] | None = None,
    ) -> int:
        """Run a command in a container as `user`; what it prints goes to `log`. Its exit status.

        `write`: directories of this machine that it may change, by their places there; Docker's and Podman's only.
        """
        reason = why_not(runtime)
        if reason:
            raise UnavailableError(reason)
        if runtime == "containerd":
            whole = self._containerd(command, user, shown(see))
        else:
            whole = self._docker(runtime, command, user, shown(see), write or {})
        return subprocess.run(whole, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._env()).returncode

    def _docker(
        self, runtime: str, command: Sequence[str], user: int, see: Sequence[Path], write: Mapping[Path, Path]
    ) -> list[str]:
        words = ["docker", "run", "--rm", "--network=none", "--read-only", f"--user={user}:{user}"]
        words += [f"--cgroup-parent=/{self._cgroup}"]
        # Docker takes IPv6 away from a container without a network, and tests are about loopback's.
        words += [f"--sysctl=net.ipv6.conf.{name}.disable_ipv6=0" for name in ("all", "default", "lo")]
        if runtime == "podman":
            words += [f"--security-opt=seccomp={PODMAN_PROFILE}", "--cap-drop=ALL"]
            words += [f"--cap-add={name}" for name in PODMAN_CAPABILITIES]
        words += [f"--tmpfs={place}:exec,mode=1777" for place in WRITABLE]
        words += [f"--volume={place}:{place}:ro" for place in see]
        words += [f"--volume={here}:{there}" for there, here in write.items()]
        return [*words, f"--env=PATH={os.environ['PATH']}", "--env=LANG=C.UTF-8", IMAGE, *command]

    def _containerd(self, command: Sequence[str], user: int, see: Sequence[Path]) -> list[str]:
        name = f"c{uuid.uuid4().hex}"
        root = self._state / name
        for place in WRITABLE:  # what is mounted there takes this mode
            (root / place[1:]).mkdir(parents=True)
            (root / place[1:]).chmod(0o1777)
        words = ["ctr", f"--address={self._state}/exec/containerd/containerd.sock", "run", "--rm", "--seccomp"]
        words += ["--rootfs", "--allow-new-privs", f"--cgroup=/{self._cgroup}/{name}"]
        words += [f"--mount=type=tmpfs,src=tmpfs,dst={place},options=mode=1777" for place in WRITABLE]
        words += [f"--mount=type=bind,src={place},dst={place},options=rbind:ro" for place in see]
        words += [f"--env=PATH={os.environ['PATH']}", "--env=LANG=C.UTF-8"]
        change = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []  # no option for it
        return [*words, str(root), name, *change, *command]

    def _env(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
        return {**kept, "DOCKER_HOST": f"unix://{self._socket}", "DOCKER_CONFIG": str(self._state / "client")}

    def _start(self) -> None:
        settings = self._state / "daemon.json"  # not the system's
        settings.write_text("{}")
        daemon = ["dockerd", "--storage-driver=vfs", "--iptables=false", "--ip6tables=false", "--bridge=none"]
        daemon += [f"--data-root={self._state}/data", f"--exec-root={self._state}/exec"]
        daemon += [f"--pidfile={self._state}/pid", f"--host=unix://{self._socket}", f"--config-file={settings}"]
        # It writes a key to /etc/docker, and leaves mounts and processes: all in namespaces that end with it.
        apart = ["setpriv", "--pdeathsig=KILL"]  # if we are killed, it is as well
        apart += ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        script = '[ ! -d /etc/docker ] || mount -t tmpfs none /etc/docker; exec "$@"'
        with open(self._state / "log", "wb") as log:
            self._daemon = subprocess.Popen(
                [*apart, "sh", "-c", script, "sh", *daemon],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env(),
                start_new_session=True,
            )
        deadline = time.monotonic() + SECONDS
        while self._client("version") is None:
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                raise UnavailableError(f"dockerd does not start:\n{self._said()}")
            time.sleep(0.1)
        empty = subprocess.run(["tar", "-cf", "-", "--files-from", "/dev/null"], stdout=subprocess.PIPE, check=True)
        if self._client("import", "-", IMAGE, given=empty.stdout) is None:
            raise UnavailableError(f"docker makes no image:\n{self._said()}")

    def _client(self, *words: str, given: bytes = b"") -> bytes | None:
        """What `docker` prints; None if it fails."""
        done = subprocess.run(["docker", *words], input=given, capture_output=True, env=self._env())
        return done.stdout if done.returncode == 0 else None

    def _said(self) -> str:
        return (self._state / "log").read_text(errors="replace")[-2000:]

    def _end(self) -> None:
        if self._daemon is not None:
            # Its process 1: the kernel ends all others before that, and `unshare` when that has ended.
            for pid in children(self._daemon.pid):
                os.kill(pid, signal.SIGKILL)
            self._daemon.wait()
        shutil.rmtree(self._state, ignore_errors=True)
        for place in Path("/sys/fs/cgroup").glob(f"**/{self._cgroup}"):
            for group in (*sorted(place.rglob("*/"), reverse=True), place):
                with contextlib.suppress(OSError):
                    group.rmdir()
