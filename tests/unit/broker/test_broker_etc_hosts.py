"""Which names /etc/hosts gives an address to."""

from __future__ import annotations

from pathlib import Path

import pytest

from fence_core.broker.services.etc_hosts import remark

HOSTS = b"""\
# 10.0.0.9 commented
127.0.0.1\tlocalhost
10.0.0.1   other DB.internal. db # more
bad-address db
10.0.0.2 second
fd00::1 six
\xff\xfe db
"""


@pytest.fixture
def hosts(tmp_path: Path) -> str:
    (tmp_path / "hosts").write_bytes(HOSTS)
    return str(tmp_path / "hosts")


@pytest.mark.parametrize(
    ("address", "names", "found"),
    [
        ("10.0.0.1", ["db"], "db"),
        ("10.0.0.1", ["elsewhere", "db.internal"], "db.internal"),
        ("fd00:0::1", ["six"], "six"),
        ("10.0.0.2", ["db"], ""),
        ("10.0.0.9", ["commented"], ""),
        ("10.0.0.1", ["more"], ""),
        ("api.example", ["db"], ""),
    ],
)
def test_remark(hosts: str, address: str, names: list[str], found: str) -> None:
    said = f"{hosts} gives {found} this address, so network.hosts is not asked where it is" if found else ""
    assert remark(address, names, hosts) == said


def test_without_a_file(tmp_path: Path) -> None:
    assert remark("10.0.0.1", ["db"], str(tmp_path / "nothing")) == ""
