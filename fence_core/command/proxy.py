"""`fence proxy`: the filter alone, for what cannot be fenced from here. See docs/how-to/filter-without-a-fence.md."""

from __future__ import annotations

import gc
import os
import signal
import time
from typing import TYPE_CHECKING, Any

from fence_core.command.host import HOST
from fence_core.command.options import Option, UsageError, parse
from fence_core.command.ports import parse_port
from fence_core.launcher.session_report import say
from fence_core.report.lines import FAULT, REFUSED, VERSION, remedy_data
from fence_core.text import escape

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from fence_core.command.options import Asked
    from fence_core.proxy.desk import Desk, Outcome

__all__ = ["PROXY_OPTIONS", "serve"]

TOKEN = "FENCE_PROXY_TOKEN"
_LISTEN = "127.0.0.1:8899"
_MARKS = {"allowed": "✓", "refused": REFUSED, "failed": FAULT}

PROXY_OPTIONS = (
    Option("settings", "s", "FILE", "the policy: .json, .jsonc, .yaml or .toml"),
    Option("template", "t", "NAME", "a policy that comes with fence"),
    Option("no-project-config", "", "", "ignore this directory's policy"),
    Option("allow-domain", "", "NAME", "as an item of network.allowedDomains, for this run", many=True),
    Option("listen", "l", "ADDR:PORT", f"where to listen, by default {_LISTEN}; port 0 is any"),
    Option("no-token", "", "", "let clients on other machines in without a token"),
    Option("debug", "d", "", "show what is allowed, too"),
    Option("log-file", "", "FILE", "append what is shown to FILE; as JSON if it ends in .jsonl"),
    Option("help", "h", "", "show this text and exit"),
)
_HEAD = """\
usage: fence proxy [flags]

Runs the filter alone: an HTTP proxy that connects to what the policy allows, and to nothing else.
Nothing makes a program go by it but its network.
"""
_TAIL = f"""
Where it listens to other machines, clients need a token: that of {TOKEN}, or one that
is made up and shown. It is the password in http://fence:TOKEN@ADDR:PORT.
The filter ends by SIGINT or SIGTERM."""


def serve(arguments: Sequence[str]) -> int:
    """Serve until a signal comes. Raises FenceError, UsageError, OSError."""
    asked = parse(arguments, PROXY_OPTIONS)
    if asked.has("help"):
        from fence_core.command.help import page

        print(page(_HEAD, PROXY_OPTIONS, _TAIL))
        return 0
    if asked.words:
        raise UsageError(f"proxy takes no command, and {escape(asked.words[0])} is none of its flags")
    host, port = _place(asked)
    log = _Log(asked)
    from fence_core.command.choose import choose
    from fence_core.proxy.desk import Desk

    found = choose(asked, os.getcwd(), (), ())
    token = _token(host, asked)
    listener = _listen(host, port)
    log.say(f"policy: {', '.join(found.chain)}")
    return _serve(listener, Desk(found.config.policy, log.told, token=token), log)


def _place(asked: Asked) -> tuple[str, int]:
    text = asked.value("listen") or _LISTEN
    if text.endswith(":0"):
        return parse_port(f"{text[:-1]}1")[0] or "127.0.0.1", 0
    host, port = parse_port(text)
    return host or "127.0.0.1", port


def _listen(host: str, port: int) -> socket.socket:
    """Raises UsageError."""
    from fence_core.proxy.standalone import listen

    try:
        return listen(host, port)
    except OSError as error:
        raise UsageError(f"it cannot listen on port {port} of {host}: {error.strerror}") from None


def _token(host: str, asked: Asked) -> str:
    """What clients must show; empty where they need not. Raises UsageError."""
    given = os.environ.get(TOKEN, "")
    if not given.isascii() or any(sign in given for sign in " @:/\t\r\n"):
        raise UsageError(f"{TOKEN} holds signs that do not fit into a URL; letters, digits, - and _ do")
    if asked.has("no-token"):
        return ""
    if given or host.startswith("127.") or host == "::1":
        return given
    import secrets

    return secrets.token_urlsafe(24)


def _serve(listener: socket.socket, desk: Desk, log: _Log) -> int:
    from fence_core.proxy import refusal
    from fence_core.proxy.standalone import Server

    gc.enable()  # which `main` has switched off for what starts and ends
    refusal.begin_with(HOST.blocked)
    server = Server(listener, desk)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: server.stop())
    host, port = listener.getsockname()[:2]
    user = f"fence:{desk.token}@" if desk.token else ""
    print(f"http://{user}{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    server.run()
    if log.refused:
        log.say(f"{log.refused} {'request was' if log.refused == 1 else 'requests were'} refused")
    return 0


class _Log:
    """Standard error, and a file."""

    def __init__(self, asked: Asked) -> None:
        """Raises OSError."""
        self.refused = 0
        self._debug = asked.has("debug")
        path = asked.value("log-file")
        self._as_json = path is not None and path.endswith(".jsonl")
        self._fd = -1 if path is None else os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._number = 0

    def say(self, text: str) -> None:
        say(f"[fence] {text}")

    def told(self, outcome: Outcome) -> None:
        """What became of a request. Called by one thread at a time."""
        self.refused += outcome.mark == "refused"
        if outcome.mark == "allowed" and not self._debug:
            return
        moment = time.time()
        text = _as_text(outcome, moment)
        say(text)
        if self._fd < 0:
            return
        if self._as_json:
            import json

            self._number += 1
            text = json.dumps(_as_data(outcome, moment, self._number))
        try:
            os.write(self._fd, (text + "\n").encode("utf-8", "backslashreplace"))
        except OSError as error:
            self.say(f"the log file cannot be written: {error.strerror}")
            self._fd = -1


def _url(outcome: Outcome) -> str:
    if not outcome.host:
        return ""
    host = f"[{outcome.host}]" if ":" in outcome.host else outcome.host
    if outcome.method == "CONNECT":
        return f"https://{host}:{outcome.port}"
    return f"http://{host}" + (f":{outcome.port}" if outcome.port != 80 else "") + "/"


def _as_text(outcome: Outcome, moment: float) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(moment))
    status = outcome.status or ("TLS" if outcome.mark == "refused" else "sent on")
    parts = (outcome.method, str(status), outcome.host, _url(outcome))
    line = " ".join(escape(part) for part in parts if part)
    more = "" if outcome.mark == "allowed" else f": {outcome.what}"
    if outcome.what == f"{outcome.host}:{outcome.port} is not allowed":
        more = ""  # the line says so
    return f"[fence:http] {clock} {_MARKS[outcome.mark]} {line}{escape(more)} (0s, client={outcome.client})"


def _as_data(outcome: Outcome, moment: float, number: int) -> dict[str, Any]:
    """With the names of the log of a fenced command, as far as there is something to say."""
    whole, fraction = divmod(moment, 1)
    return {
        "v": VERSION,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{int(fraction * 1000):03d}Z",
        "seq": number,
        "kind": "http",
        "verdict": outcome.mark,
        "what": "connect",
        "host": outcome.host,
        "port": outcome.port,
        "detail": outcome.what,
        "request": f"{outcome.method} {_url(outcome)}".strip(),
        "status": outcome.status,
        "rule": outcome.rule,
        "client": outcome.client,
        "count": 1,
        "remedy": remedy_data(outcome.remedy),
    }
