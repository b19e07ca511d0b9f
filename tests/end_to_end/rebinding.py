"""A network of its own, in which names lead to wherever the tests want: run as a program before the fenced pytest.

Run as root in new network and mount namespaces, with /etc/hosts bound to a file of the test. Servers listen on every
address given; what they have heard is written down when the command has ended.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.end_to_end.recorder import agent, recording

ENTER = """
ip link set lo up && touch hosts && mount --bind hosts /etc/hosts || exit
for address in $ADDRESSES; do ip address add "$address" dev lo nodad || exit; done
exec "$0" -m tests.end_to_end.rebinding "$@"
"""
"""For `sh -c`, in the directory of the run: the namespaces exist, this fills them."""


def main(argv: list[str]) -> int:
    """`argv`: the hosts file, the file for what was heard, the agent's port, addresses with commas, the command."""
    hosts, report, port, addresses, *command = argv
    with ExitStack() as stack:
        servers = {address: stack.enter_context(recording(address, 80)) for address in addresses.split(",")}

        def answer(words: list[str]) -> str:
            """`name address` puts the first answer for a name in place of all others."""
            Path(hosts).write_text("".join(f"{word} {words[0]}\n" for word in words[1:]), encoding="ascii")
            return "done"

        stack.enter_context(agent(answer, int(port)))
        status = subprocess.run(command).returncode
        heard = {address: server.heard.decode("latin-1") for address, server in servers.items()}
        Path(report).write_text(json.dumps(heard), encoding="ascii")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
