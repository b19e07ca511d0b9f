"""Ways out by the resolver: other name servers, other kinds of question, other programs that ask.

That nothing is ever sent on is shown by name servers of the test, which hear nothing.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess

import pytest

from tests.end_to_end.caught import Fenced
from tests.end_to_end.recorder import recording
from tests.end_to_end.test_escape_domains_names import QUERY

as_root = pytest.mark.needs("user:root")

POLICY = """
[tool.fence.network]
allowed_domains = ["allowed.test", "*.wild.test"]
"""


@as_root
def test_name_servers_of_this_machine(fenced: Fenced) -> None:
    """They hear nothing, though all of loopback may be reached; each question is answered by us instead."""
    with recording("127.0.0.77", 53) as plain, recording("127.0.0.77", 853) as tls, recording() as free:
        fenced.write("query.py", QUERY)
        run = fenced.run(
            f"""
            import socket, struct
            import pytest
            from query import ask, query, read

            SERVER = ("127.0.0.77", 53)
            FREE = ("127.0.0.1", {free.port})

            def udp():
                s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                s.settimeout(5)
                return s

            def test_allowed():
                assert ask([b"allowed", b"test"], to=SERVER) == (0, 1)

            def test_refused():
                assert ask([b"secret", b"example"], to=SERVER) == (3, 0)

            def test_connected():
                with udp() as s:
                    s.connect(SERVER)
                    s.send(query([b"allowed", b"test"]))
                    assert read(s.recv(999)) == (0, 1)
                    s.sendmsg([query([b"x", b"wild", b"test"])], [], 0, SERVER)
                    assert read(s.recv(999)) == (0, 1)

            def test_ipv4_in_ipv6():
                with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
                    s.settimeout(5)
                    s.sendto(query([b"allowed", b"test"]), ("::ffff:127.0.0.77", 53))
                    assert read(s.recvfrom(999)[0]) == (0, 1)

            def by_tcp(*messages):
                with socket.create_connection(SERVER, 5) as s:
                    for message in messages:
                        s.sendall(struct.pack("!H", len(message)) + message)
                        if not (size := s.recv(2)):
                            return None
                        reply = s.recv(struct.unpack("!H", size)[0], socket.MSG_WAITALL)
                    return read(reply)

            def test_tcp():
                assert by_tcp(query([b"allowed", b"test"]), query([b"a", b"wild", b"test"])) == (0, 1)

            def test_tcp_refused():
                assert by_tcp(query([b"allowed", b"test"]), query([b"secret", b"example"])) == (3, 0)

            @pytest.mark.parametrize("kind", [
                2, 5, 6, 12, 15, 16, 28, 33, 35, 43, 46, 48, 64, 65, 99, 251, 252, 257, 65280
            ])
            def test_other_kinds_of_an_allowed_name(kind):
                for name in b"allowed.test", b"c2VjcmV0.wild.test", b"_x._tcp.allowed.test":
                    assert ask(name.split(b"."), kind, SERVER) == (0, 0)

            def test_labels_under_an_allowed_name():
                for kind in 1, 16:
                    assert ask([b"c2VjcmV0", b"allowed", b"test"], kind, SERVER) == (3, 0)

            def test_tls():
                with pytest.raises(PermissionError):
                    socket.create_connection(("127.0.0.77", 853), 5)

            def test_quic():
                with udp() as s, pytest.raises(PermissionError):
                    s.sendto(b"secret", ("127.0.0.77", 853))

            def test_not_a_question():
                with udp() as s:
                    s.sendto(b"secret secret secret", SERVER)

            @pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
            def test_beside_a_server_of_ours(host):
                # The server at the more specific address gets what is sent to it.
                with udp() as own, udp() as s:
                    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    own.bind((host, 53))
                    s.sendto(query([b"allowed", b"test"]), SERVER)
                    assert read(s.recvfrom(999)[0]) == (0, 1)

            @pytest.mark.parametrize("host", ["127.0.0.77", "127.0.0.78"])
            def test_in_its_place(host):
                # Of two at one address either may get it, and when ours is closed the other does.
                message = query([b"allowed", b"test"])
                with udp() as own, udp() as s:
                    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    own.bind((host, 53))
                    s.sendto(message, (host, 53))
                    if host == SERVER[0]:
                        assert read(s.recvfrom(999)[0]) == (0, 1)
                    else:
                        assert own.recv(99) == message  # a server of the tests themselves
                assert ask([b"allowed", b"test"], to=(host, 53)) == (0, 1)

            def test_control():
                with udp() as s:
                    s.sendto(b"other port", FREE)
                    assert s.recvfrom(99) == (b"heard other port", FREE)
            """,
            policy=POLICY + "allow_local_outbound = true\n",
        )
        run.clean("test_allowed", "test_connected", "test_ipv4_in_ipv6", "test_tcp", "test_control")
        run.clean("test_beside_a_server_of_ours[0.0.0.0]", "test_beside_a_server_of_ours[127.0.0.1]")
        kinds = [r["nodeid"] for r in run.reports if "other_kinds" in r["nodeid"] and r["phase"] == "call"]
        assert len(kinds) == 19
        run.clean(*kinds)
        run.refused("test_refused", "resolve secret.example")
        run.refused("test_tcp_refused", "resolve secret.example")
        run.refused("test_labels_under_an_allowed_name", "resolve c2VjcmV0.allowed.test".lower(), count=None)
        run.refused("test_tls", "connect 127.0.0.77:853/tcp")
        run.refused("test_quic", "connect 127.0.0.77:853/udp")
        run.refused("test_not_a_question", "connect 127.0.0.77:53/udp")
        assert plain.heard == tls.heard == b"", run
        assert free.heard == b"other port"
        run.clean("test_in_its_place[127.0.0.77]", "test_in_its_place[127.0.0.78]")


def test_name_servers_elsewhere(fenced: Fenced) -> None:
    """Whoever is asked, it is us who answer; encrypted questions are refused."""
    fenced.write("query.py", QUERY)
    run = fenced.run(
        """
        import os, socket, struct
        import pytest
        from here import AWAY, AWAY6
        from query import ask, query, read

        @pytest.mark.parametrize("host", [AWAY, "8.8.8.8", "255.255.255.255", "224.0.0.251"])
        def test_allowed(host):
            assert ask([b"allowed", b"test"], to=(host, 53)) == (0, 1)

        def test_ipv6():
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
                s.settimeout(5)
                s.sendto(query([b"allowed", b"test"]), (AWAY6, 53))
                assert read(s.recv(999)) == (0, 1)

        def test_refused():
            assert ask([b"secret", b"example"], to=(AWAY, 53)) == (3, 0)

        @pytest.mark.parametrize("kind, port", [
            (socket.SOCK_STREAM, 853), (socket.SOCK_DGRAM, 853), (socket.SOCK_STREAM, 443), (socket.SOCK_DGRAM, 443),
            (socket.SOCK_DGRAM, 5353), (socket.SOCK_DGRAM, 54)
        ])
        def test_otherwise(kind, port):
            with socket.socket(socket.AF_INET, kind) as s, pytest.raises(PermissionError):
                s.connect((AWAY, port))
                s.sendmsg([b"a question"])  # to connect a datagram socket asks nobody

        def test_answer_comes_from_whom_was_asked():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.settimeout(5)
                s.sendto(query([b"allowed", b"test"]), (AWAY, 53))
                assert s.recvfrom(999)[1] == (AWAY, 53)

        def test_recvmsg():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.settimeout(5)
                s.sendto(query([b"allowed", b"test"]), (AWAY, 53))
                assert read(s.recvmsg(999)[0]) == (0, 1)

        def test_fast_open():
            message = query([b"allowed", b"test"])
            with socket.socket() as s:
                s.sendto(struct.pack("!H", len(message)) + message, socket.MSG_FASTOPEN, (AWAY, 53))
                assert read(s.recv(999)[2:]) == (0, 1)
        """,
        policy=POLICY,
    )
    names = [r["nodeid"] for r in run.reports if r["phase"] == "call"]
    wrong = ("test_refused", "test_otherwise")
    run.clean(*(name for name in names if not any(word in name for word in wrong)))
    run.refused("test_refused", "resolve secret.example")
    found = [v.what for v in run.ledger if "test_otherwise" in v.nodeid]
    ports = ["853/tcp", "853/udp", "443/tcp", "443/udp", "5353/udp", "54/udp"]
    assert found == [f"connect 198.51.100.7:{port}" for port in ports], run


def test_who_asks_is_known(fenced: Fenced) -> None:
    """A question is on the account of the process that asks it, whatever port it asks from, and by whatever way."""
    fenced.write("query.py", QUERY)
    run = fenced.run(
        '''
        import json, socket, subprocess, sys
        from query import query, read

        known = {}
        FIRST = """if True:
            import json, socket
            from query import query, read
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.settimeout(5)
                s.connect(("192.0.2.53", 53))
                s.send(query([b"allowed", b"test"]))
                assert read(s.recv(999)) == (0, 1)
                print(json.dumps([s.getpeername(), s.getsockname()]))
        """

        def test_first():
            said = subprocess.run([sys.executable, "-c", FIRST], stdout=subprocess.PIPE, check=True).stdout
            known["server"], known["own"] = map(tuple, json.loads(said))

        def test_by_the_port_of_another():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.settimeout(5)
                s.bind(known["own"])
                s.connect(("0.0.0.0", known["server"][1]))
                s.send(query([b"secret", b"example"]))
                assert read(s.recv(999)) == (3, 0)
        ''',
        policy=POLICY,
    )
    run.clean("test_first")
    run.refused("test_by_the_port_of_another", "resolve secret.example")


MUSL = r"""
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
static int sent;
ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length) {
    sent++; /* musl asks again after some seconds: by this function, as it is linked in place of its own */
    return syscall(SYS_sendto, fd, data, size, flags, to, length);
}
int main(int argc, char **argv) {
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
    int failed = getaddrinfo(argv[argc - 1], "80", &hints, &found);
    fprintf(stderr, "%d", sent);
    if (failed)
        return 1;
    puts(inet_ntoa(((struct sockaddr_in *)found->ai_addr)->sin_addr));
    return 0;
}
"""


def musl_minds_the_sender() -> bool:
    """From 1.2.4 on by recvmsg: docs/known-limitations.md."""
    loader = f"/lib/ld-musl-{platform.machine()}.so.1"
    found = re.search(r"Version (\d+)\.(\d+)\.(\d+)", subprocess.run([loader], capture_output=True, text=True).stderr)
    return found is not None and tuple(map(int, found.groups())) >= (1, 2, 4)


@pytest.mark.needs("program:node", "program:curl", "program:musl-gcc")
def test_resolvers_of_programs(fenced: Fenced) -> None:
    """Each kind of resolver finds what is allowed and nothing else: libc, musl, c-ares, dnspython by UDP and TCP.

    None waits for an answer: it would be asked again later than it may take, or is seen to ask no second time.
    """
    with recording() as allowed:
        source = fenced.write("musl.c", MUSL)
        musl = shutil.which("musl-gcc") or ""
        subprocess.run([musl, "-static", "-o", source.with_name("musl"), source], check=True)
        # It finds no address at all where the machine has none but loopback's (AI_ADDRCONFIG), as a container may.
        asked = subprocess.run(["getent", "ahostsv4", "localhost"], stdout=subprocess.PIPE).stdout
        without = [name for name, missing in (("getent", not asked), ("musl", musl_minds_the_sender())) if missing]
        fenced.write("without.py", "".join(f"del WAYS[{name!r}]\n" for name in without))
        run = fenced.run(
            """
            import socket, subprocess
            import pytest

            def run(*argv):
                return subprocess.run(argv, capture_output=True, text=True, timeout=15).stdout.strip()

            def musl(name):
                ended = subprocess.run(["./musl", name], capture_output=True, text=True, timeout=15)
                servers = sum(line.startswith("nameserver") for line in open("/etc/resolv.conf"))
                assert int(ended.stderr) == max(1, min(servers, 3)), "it was asked again"
                return ended.stdout.strip()

            def node(script):
                return run("node", "-e", f"const dns = require('dns'); {script}")

            def with_dnspython(name, **options):
                import dns.resolver
                resolver = dns.resolver.Resolver(configure=False)
                resolver.nameservers = ["192.0.2.53"]
                resolver.lifetime = 4
                try:
                    return [str(one) for one in resolver.resolve(name, **options)][0]
                except dns.resolver.NoAnswer:
                    return ""
                except dns.resolver.NXDOMAIN:
                    return "ENOTFOUND"

            WAYS = {
                "getent": lambda name: run("getent", "ahostsv4", name).partition(" ")[0],
                "musl": musl,
                "c-ares": lambda name: node(f"dns.resolve4('{name}', (e, a) => console.log(e ? e.code : a[0]))"),
                "c-ares, another server": lambda name: node(
                    f"const r = new dns.Resolver(); r.setServers(['192.0.2.53']);"
                    f"r.resolve4('{name}', (e, a) => console.log(e ? e.code : a[0]))"),
                "node": lambda name: node(f"dns.lookup('{name}', (e, a) => console.log(e ? e.code : a))"),
                "dnspython": with_dnspython,
                "dnspython, TCP": lambda name: with_dnspython(name, tcp=True),
            }
            exec(open("without.py").read())

            @pytest.mark.parametrize("way", WAYS)
            def test_allowed(way):
                assert WAYS[way]("allowed.test") == socket.gethostbyname("allowed.test")

            @pytest.mark.parametrize("way", WAYS)
            def test_refused(way):
                assert WAYS[way]("secret.example") in ("", "ENOTFOUND", "EAI_AGAIN")

            def test_texts():
                assert node("dns.resolveTxt('allowed.test', (e, a) => console.log(e ? e.code : a))") == "ENODATA"
                assert with_dnspython("allowed.test", rdtype="TXT") == ""

            def test_curl():
                assert run("curl", "-s", "http://allowed.test/") == "heard"
            """,
            policy=f'[tool.fence.network]\nhosts = {{"allowed.test" = "127.0.0.1:{allowed.port}"}}\n',
            env={"RES_OPTIONS": "timeout:30"},
        )
        names = [r["nodeid"] for r in run.reports if r["phase"] == "call"]
        run.clean(*(name for name in names if "test_refused" not in name))
        for name in names:
            if "test_refused" in name:
                run.refused(name, "resolve secret.example", count=None, by=run.attempts(name)[0].chain[1:])
