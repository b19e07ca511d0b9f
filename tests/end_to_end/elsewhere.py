"""Another machine: what OpenSSH leads to, in namespaces of its own, with a home, a network and users of its own.

`sshd` serves one connection on its standard streams (`-i`), as inetd starts it; the client starts it in place of a
connection (ProxyCommand). So nothing listens anywhere, and nothing outlives the client that is not a fault of ours.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HOME = "/media"
"""The user's home there: no place for temporary files, so that a fence guards it."""
_NAMESPACES = "setsid unshare --mount --net"
"""Not of processes: what is left there is to be seen."""
_AS_USER = "--user --map-current-user --keep-caps"
_MACHINE = f"""\
#!/bin/sh
exec {_NAMESPACES} %(user)s sh -ec '
mount --bind %(directory)s/home {HOME}
mount --bind %(directory)s/passwd /etc/passwd
mount -t tmpfs none /run
mkdir -m 755 /run/sshd
ip link set lo up
exec setpriv --inh-caps=-all %(sshd)s -i -e -f %(directory)s/sshd_config'
"""
_SERVER = """\
HostKey %(directory)s/host_key
AuthorizedKeysFile %(directory)s/user_key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
AcceptEnv *
PidFile none
LogLevel ERROR
"""
_CLIENT = """\
Host there
  User kim
  ProxyCommand %(directory)s/machine
  IdentityFile %(directory)s/user_key
  UserKnownHostsFile /dev/null
  StrictHostKeyChecking no
  BatchMode yes
  LogLevel ERROR
  SendEnv FENCE_TEST_RUN PYTEST_*
"""


class Machine:
    """It is there as long as somebody is connected to it."""

    def __init__(self, directory: Path) -> None:
        """Skips the test where such a machine cannot be made."""
        self.directory = directory
        self.home = directory / "home"
        """The user's home, as it is named here."""
        self.home.mkdir()
        given = {"directory": directory, "sshd": _sshd(), "user": "" if os.geteuid() == 0 else _AS_USER}
        for name in "host_key", "user_key":
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
        kim = f"kim:NP:{os.geteuid()}:{os.getegid()}:Kim:{HOME}:/bin/sh\n"
        (directory / "passwd").write_text(f"{kim}sshd:x:100:65534:sshd:/run/sshd:/usr/sbin/nologin\n")
        (directory / "sshd_config").write_text(_SERVER % given)
        (directory / "ssh_config").write_text(_CLIENT % given)
        machine = directory / "machine"
        machine.write_text(_MACHINE % given)
        machine.chmod(0o755)

    def spec(self, *parts: str, python: str = sys.executable) -> str:
        """That of a worker there, for ``--tx``."""
        return "//".join(["ssh=there", f"ssh_config={self.directory / 'ssh_config'}", f"python={python}", *parts])

    def script(self, name: str, text: str) -> str:
        """A program of the machine's."""
        path = self.directory / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)


def _sshd() -> str:
    """Not on an ordinary user's path."""
    found = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if not found or not shutil.which("ssh"):
        pytest.skip("program: sshd or ssh is not installed")
    words = [*_NAMESPACES.split()[1:], *([] if os.geteuid() == 0 else _AS_USER.split()), "true"]
    tried = subprocess.run(words, capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"elsewhere: no namespaces for another machine: {tried.stderr.strip()}")
    return found


@pytest.fixture
def there(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """Another machine, which nobody is connected to yet."""
    return Machine(tmp_path_factory.mktemp("there"))
