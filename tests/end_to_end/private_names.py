"""A network of its own with a name server of its own: run as a program before the fenced pytest.

Run as root in new network and mount namespaces, where /etc/resolv.conf names the server. Other servers listen on every
address given; what they have heard is written down when the command has ended.
"""

from __future__ import annotations

import json
import socketserver
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

from tests.end_to_end.recorder import agent, recording

NAME_SERVER = "192.0.2.53"
ENTER = """
ip link set lo up && mount --bind resolv.conf /etc/resolv.conf && mount --bind nsswitch.conf /etc/nsswitch.conf || exit
for address in $ADDRESSES; do ip address add "$address" dev lo nodad || exit; done
exec "$0" -m tests.end_to_end.private_names "$@"
"""
"""For `sh -c`, in the directory of the run: the namespaces exist, this fills them."""
FILES = {"resolv.conf": f"nameserver {NAME_SERVER}\n", "nsswitch.conf": "hosts: dns\npasswd: files\ngroup: files\n"}


class NameServer(socketserver.UDPServer):
    """Answers with the addresses that a name has at the moment."""

    def __init__(self) -> None:
        super().__init__((NAME_SERVER, 53), Query)
        self.addresses: dict[str, list[str]] = {}


class Query(socketserver.BaseRequestHandler):
    server: NameServer

    def handle(self) -> None:
        import dns.flags
        import dns.message
        import dns.rcode
        import dns.rrset

        data, sock = self.request
        query = dns.message.from_wire(data)
        question = query.question[0]
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA | dns.flags.AA
        addresses = self.server.addresses.get(question.name.to_text(omit_final_dot=True).lower())
        if addresses is None:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif question.rdtype == 1:
            answer.answer.append(dns.rrset.from_text(question.name, 0, "IN", "A", *addresses))
        sock.sendto(answer.to_wire(), self.client_address)


def main(argv: list[str]) -> int:
    """`argv`: the file for what was heard, the agent's port, addresses with commas, the command."""
    report, port, addresses, *command = argv
    with ExitStack() as stack:
        servers = {address: stack.enter_context(recording(address, 80)) for address in addresses.split(",")}
        names = stack.enter_context(NameServer())
        threading.Thread(target=names.serve_forever, daemon=True).start()
        stack.callback(names.shutdown)

        def answer(words: list[str]) -> str:
            """`name address...`: from now on the name leads there."""
            names.addresses[words[0]] = words[1:]
            return "done"

        stack.enter_context(agent(answer, int(port)))
        status = subprocess.run(command).returncode
        heard = {address: server.heard.decode("latin-1") for address, server in servers.items()}
        Path(report).write_text(json.dumps(heard), encoding="ascii")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
