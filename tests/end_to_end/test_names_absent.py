"""Names that are nobody's fault: this machine's own, and those of which the policy says that they do not exist."""

from __future__ import annotations

import os

import pytest

from tests.end_to_end.caught import Fenced
from tests.end_to_end.support import SECONDS

UNSHARE = ("unshare", "--uts") if os.geteuid() == 0 else ("unshare", "--user", "--map-root-user", "--uts")
"""A name of its own for the run; an ordinary user needs a user namespace for that."""


def called(name: str) -> tuple[str, ...]:
    return (*UNSHARE, "sh", "-c", f'hostname {name} && exec "$0" "$@"')


OWN = """
    import email.utils, http.server, socket, subprocess, sys
    import pytest

    NAME = socket.gethostname()

    def addresses(name, family=0):
        return {info[4][0] for info in socket.getaddrinfo(name, 80, family, socket.SOCK_STREAM)}

    def test_name():
        assert addresses(NAME) <= {"127.0.0.1", "::1"}
        assert socket.gethostbyname(NAME) == "127.0.0.1"
        assert addresses(NAME.upper() + ".", socket.AF_INET) == {"127.0.0.1"}

    def test_server():
        with http.server.HTTPServer(("", 0), http.server.BaseHTTPRequestHandler) as server:
            assert server.server_name
            with socket.create_connection((NAME, server.server_port), 10):
                pass

    def test_standard_library():
        assert socket.getfqdn() and email.utils.make_msgid()

    def test_other_program():
        code = "import socket; print(socket.gethostbyname(socket.gethostname()))"
        assert subprocess.run([sys.executable, "-c", code], stdout=-1).stdout == b"127.0.0.1\\n"

    def test_localhost():
        assert addresses("localhost.localdomain", socket.AF_INET) == {"127.0.0.1"}
        assert addresses("x.localhost.localdomain", socket.AF_INET) == {"127.0.0.1"}

    @pytest.mark.parametrize("name", ["x." + NAME, NAME + ".example", NAME + "x", "localhost.example"])
    def test_others(name):
        with pytest.raises(socket.gaierror):
            addresses(name)
"""


@pytest.mark.needs("program:unshare", "program:hostname")
@pytest.mark.parametrize("name", ["ci-runner-7f", "ci-runner-7f.fleet.example", "Ci-Runner"])
def test_own_name(fenced: Fenced, name: str) -> None:
    """As nss-myhostname has it, on a machine whose /etc/hosts does not; no other name comes with it."""
    run = fenced.run(OWN, prefix=called(name))
    run.clean("test_name", "test_server", "test_standard_library", "test_other_program", "test_localhost")
    lower = name.lower()
    for other in f"x.{lower}", f"{lower}.example", f"{lower}x", "localhost.example":
        # The domain of the machine's name is a suffix, too, so that it may have been meant without.
        meant = {f"resolve {other}", f"resolve {other.removesuffix('.fleet.example')}"}
        found = {attempt.what for attempt in run.attempts(f"test_others[{other.replace(lower, name)}]")}
        assert found
        assert found <= meant, run


@pytest.mark.needs("program:unshare", "program:hostname")
def test_rules_come_before_the_own_name(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import socket
        import pytest

        @pytest.mark.fence(denied_domains=["own-name"])
        def test_denied():
            with pytest.raises(socket.gaierror):
                socket.gethostbyname("own-name")

        @pytest.mark.fence(hosts={"own-name": "127.0.0.1:1"})
        def test_placed():
            assert socket.gethostbyname("own-name").startswith("198.18.")

        def test_free():
            assert socket.gethostbyname("own-name") == "127.0.0.1"
        """,
        prefix=called("own-name"),
    )
    run.refused("test_denied", "resolve own-name")
    run.clean("test_placed", "test_free")


ABSENT = """
    import socket, subprocess, urllib.error, urllib.request
    import pytest

    def missing(name):
        with pytest.raises(socket.gaierror) as caught:
            socket.getaddrinfo(name, 80)
        return caught.value.errno in (socket.EAI_NONAME, -5)

    def test_absent():
        assert missing("doesnotexist.google.com") and missing("DoesNotExist.google.com.")

    def test_curl():
        done = subprocess.run(["curl", "-sS", "http://doesnotexist.google.com/"], stderr=-1, text=True)
        assert done.returncode == 6, done

    def test_others():
        assert missing("a.doesnotexist.google.com")

    @pytest.mark.fence(hosts={"by-marker.example": False})
    def test_marker():
        assert missing("by-marker.example")

    @pytest.mark.fence(hosts={"doesnotexist.google.com": "127.0.0.1:1"})
    def test_closest():
        assert socket.gethostbyname("doesnotexist.google.com").startswith("198.18.")

    @pytest.mark.fence(hosts={"kept.example": "127.0.0.1:1"})
    def test_first():
        socket.gethostbyname("kept.example")

    @pytest.mark.fence(hosts={"kept.example": False})
    def test_address_of_before():
        # Given to kept.example by the test before, and still in the program's hands.
        with socket.socket() as client:
            assert client.connect_ex(("198.18.0.2", 80)) != 0
"""
FILES = {
    "pyproject.toml": '[tool.fence.network]\nhosts = {"doesnotexist.google.com" = false}\n',
    "fence.yaml": 'hosts:\n  "doesnotexist.google.com": false\n',
    "fence.json": '{"network": {"hosts": {"doesnotexist.google.com": false}}}',
}


@pytest.mark.needs("program:curl")
@pytest.mark.parametrize("config", FILES)
def test_declared_absent(fenced: Fenced, config: str) -> None:
    run = fenced.run(ABSENT, files={config: FILES[config]})
    run.clean("test_absent", "test_curl", "test_marker", "test_closest", "test_first", "test_address_of_before")
    other = run.refused("test_others", "resolve a.doesnotexist.google.com")
    assert 'if the test wants it not to exist: hosts = {"a.doesnotexist.google.com" = false}' in other.rule


@pytest.mark.needs("program:curl")
def test_absent_by_proxy(fenced: Fenced) -> None:
    """A proxy says of it what one outside would say; of a name that is not listed it still says that it is refused."""
    run = fenced.run(
        """
        import subprocess
        import pytest

        def curl(url):
            done = subprocess.run(["curl", "-so", "/dev/null", "-w", "%{http_connect} %{http_code}", url], stdout=-1)
            return done.stdout.decode()

        def test_absent():
            assert curl("https://absent.corp.net/") == "502 000"
            assert curl("http://absent.corp.net/") == "000 502"

        def test_refused():
            assert curl("http://unlisted.corp.net/") == "000 403"

        @pytest.mark.parametrize("request_line", ["GET //evil.corp.net/", "GET /", "GET https://evil.corp.net/"])
        def test_no_request_to_a_proxy(request_line):
            import os, socket, urllib.parse
            to = urllib.parse.urlsplit(os.environ["http_proxy"])
            with socket.create_connection((to.hostname, to.port), 10) as s:
                s.sendall(f"{request_line} HTTP/1.1\\r\\nHost: evil.corp.net\\r\\n\\r\\n".encode())
                assert s.recv(999).startswith(b"HTTP/1.1 400 ")
        """,
        policy='[tool.fence.network]\nproxy_env = true\nhosts = {"absent.corp.net" = false}\n',
    )
    run.clean("test_absent")
    run.refused("test_refused", "connect unlisted.corp.net:80/tcp", by=["curl"])
    whole = "an HTTP request to the proxy for evil.corp.net: it must name the whole URI"
    run.refused("test_no_request_to_a_proxy[GET //evil.corp.net/]", whole)
    run.refused("test_no_request_to_a_proxy[GET /]", whole)
    run.refused(
        "test_no_request_to_a_proxy[GET https://evil.corp.net/]",
        "an HTTP request to the proxy for https://evil.corp.net/: https is asked for by CONNECT",
    )


def test_refused_after_the_end_of_the_answer(fenced: Fenced) -> None:
    """The server has ended its half, so the program can be told no more: no fault of ours."""
    run = fenced.run(
        f"""
        import socket, ssl, threading
        import pytest

        def exchange(refused):
            server = socket.create_server(("127.0.0.1", 0))
            ended = threading.Event()

            def serve():
                peer, _ = server.accept()
                with peer:
                    peer.sendall(b"hi\\n")
                    peer.shutdown(socket.SHUT_WR)
                    ended.wait({SECONDS})

            thread = threading.Thread(target=serve)
            thread.start()
            return server, ended, thread

        @pytest.mark.fence(hosts={{"greet.corp.net": "127.0.0.1"}})
        @pytest.mark.parametrize("words", [
            b"GET / HTTP/1.1\\r\\nHost: evil.corp.net\\r\\n\\r\\n",
            b"GET / HTTP/1.1\\r\\nHost: greet.corp.net\\r\\nHost: evil.corp.net\\r\\n\\r\\n",
            b"\\x16\\x03\\x01\\x00\\x04not TLS",
        ], ids=["other", "two", "tls"])
        def test_late(words):
            server, ended, thread = exchange(words)
            with server, socket.create_connection(("greet.corp.net", server.getsockname()[1])) as s:
                s.settimeout({SECONDS})
                assert s.recv(9) == b"hi\\n" and s.recv(9) == b""
                s.sendall(words)
                try:
                    while s.recv(100):
                        pass
                except ConnectionResetError:
                    pass
                ended.set()
                thread.join()
                threading.Event().wait(0.3)
        """
    )
    for test in "other", "two", "tls":
        (attempt,) = run.attempts(f"test_late[{test}]")
        assert "fault" not in attempt.rule, run
    assert "a fault of the fence" not in run.out
