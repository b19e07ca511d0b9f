"""Run a command on a kernel that refuses these system calls, as the seccomp profile of a container runtime does.

    python tests/refusing.py pidfd_getfd,process_vm_readv,process_vm_writev COMMAND...

Each of them answers EPERM, for good, to the command and all that it starts.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from fence_core.kernel import arch, bpf, libc
from tests.kernel.children import install_filter


def main(names: str, *command: str) -> None:
    calls = arch.current().calls
    refused = bpf.errno_action(errno.EPERM)
    libc.set_no_new_privs()
    install_filter(bpf.assemble({calls[name]: refused for name in names.split(",")}))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
