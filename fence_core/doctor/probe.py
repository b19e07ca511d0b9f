"""What is tried inside the fence. Run in it, by an interpreter of its own: imports nothing of ours.

Its argument is a JSON object of what to try, its output one of what came of it: an empty text where it went well, the
name of the error, or what was got.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from collections.abc import Callable

SECONDS = 20.0


def main() -> None:
    asked = json.loads(sys.argv[1])
    told = {}
    for name, attempt in (
        ("allowed port", lambda: _connect(asked["allowed port"])),
        ("refused port", lambda: _connect(asked["refused port"])),
        ("allowed file", lambda: _write(asked["allowed file"])),
        ("refused file", lambda: _write(asked["refused file"])),
        ("allowed name", lambda: _look_up(asked["allowed name"])),
        ("refused name", lambda: _look_up(asked["refused name"])),
        ("proxy", lambda: _ask_the_proxy(asked["refused name"])),
        ("terminal", _terminal),
    ):
        if asked.get(name, True):
            told[name] = _outcome(attempt)
    print(json.dumps(told))


def _outcome(attempt: Callable[[], str]) -> str:
    try:
        return attempt()
    except socket.gaierror as error:
        return next((name for name in ("EAI_NONAME", "EAI_AGAIN", "EAI_FAIL") if _is(error, name)), str(error))
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


def _is(error: OSError, name: str) -> bool:
    return bool(error.errno == getattr(socket, name))


def _connect(port: int) -> str:
    socket.create_connection(("127.0.0.1", port), SECONDS).close()
    return ""


def _write(path: str) -> str:
    with open(path, "w", encoding="utf-8") as file:
        file.write("x")
    return ""


def _look_up(name: str) -> str:
    return str(socket.getaddrinfo(name, 443, type=socket.SOCK_STREAM)[0][4][0])


def _ask_the_proxy(name: str) -> str:
    """The status of its answer; `none` where programs are told of no proxy."""
    if "http_proxy" not in os.environ:
        return "none"
    host, _, port = os.environ["http_proxy"].rpartition("/")[2].rpartition(":")
    with socket.create_connection((host, int(port)), SECONDS) as sock:
        sock.sendall(f"CONNECT {name}:443 HTTP/1.1\r\nHost: {name}:443\r\n\r\n".encode())
        return sock.recv(64).decode("ascii", "replace").split(" ")[1]


def _terminal() -> str:
    os.close(os.open("/dev/tty", os.O_RDWR))
    return ""


if __name__ == "__main__":
    main()
