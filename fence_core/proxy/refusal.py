"""What is refused on a connection, and the packets that say so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fence_core.policy.floor import PASSAGES
from fence_core.proxy import library

if TYPE_CHECKING:
    from fence_core.policy.model import Remedy

TLS_ALERT = b"\x15\x03\x01\x00\x02\x02\x31"
"""Fatal, access_denied (RFC 8446, 6): the program's TLS library names it, where a reset would be a riddle."""


class RefusedError(Exception):
    """The program's bytes go no further. `status` 0: no HTTP is spoken here, but TLS.

    `before`: what came in with the refused bytes, but ahead of them, and is to be passed on.
    """

    def __init__(
        self,
        status: int,
        what: str,
        why: str = "",
        *,
        rule: str = "",
        remedy: Sequence[str] = (),
    ) -> None:
        super().__init__(what)
        self.status = status
        self.what = what
        self.why = why
        """One of the keys of `PASSAGES`; empty: it is no violation, or the broker, which decided, has it already."""
        self.rule = rule or PASSAGES.get(why, "")
        self.remedy = tuple(remedy)
        self.before = b""
        self.change: Remedy | None = None
        """What would allow it, as data; only where there is no broker that knows it."""

    def packet(self) -> bytes:
        """The bytes that tell the program."""
        if not self.status:
            return TLS_ALERT
        return answer(self.status, self.what, self.rule, self.remedy)


_blocked = ""
"""How a page begins that tells of what the rules do not allow; empty: with the name of the plugin."""


def begin_with(blocked: str) -> None:
    """Called once, before the first connection."""
    global _blocked
    _blocked = blocked


_REASONS = {
    400: b"Bad Request", 403: b"Forbidden", 407: b"Proxy Authentication Required", 408: b"Request Timeout",
    502: b"Bad Gateway",
}  # fmt: skip


def answer(status: int, what: str, rule: str = "", remedy: Sequence[str] = ()) -> bytes:
    """A whole HTTP answer of ours that ends the connection."""
    library.load()
    from proxy.http.exception import HttpRequestRejected
    from proxy.http.parser import HttpParser, httpParserTypes

    headers = {b"Content-Type": b"text/plain; charset=utf-8"}
    if _blocked:
        lines = [*([_blocked] if status == 403 else []), f"{what}: {rule}" if rule else what]
        if status == 403:
            headers[b"X-Proxy-Error"] = b"blocked-by-allowlist"
    else:
        lines = [f"pytest-fence: {what}", *([f"rule: {rule}"] if rule else [])]
        lines.extend(line for text in remedy for line in text.splitlines())
    # The parts come from the program: no control character of them may reach a terminal.
    body = "".join("".join(c if c.isprintable() else "?" for c in line) + "\n" for line in lines)
    headers[b"X-Fence"] = b"refused" if status in (400, 403, 407) else b"failed"
    rejected = HttpRequestRejected(
        status_code=status,
        reason=_REASONS[status],
        headers=headers,
        body=body.encode("utf-8", "replace"),
    )
    packet = rejected.response(HttpParser(httpParserTypes.REQUEST_PARSER))
    return bytes(packet) if packet is not None else b""
