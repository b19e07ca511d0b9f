"""Servers that remember every byte: what is not in their memory has not got out.

Run by the outer pytest, in threads, outside of every fence.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nheard"


class Recorder:
    """One address, by TCP and by UDP. By TCP every empty line is answered, as the most credulous HTTP server would."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._heard: list[bytes] = []
        self._lock = threading.Lock()
        self.tcp = socket.create_server((host, port), backlog=512)
        self.host, self.port = self.tcp.getsockname()[:2]
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.udp.bind((self.host, self.port))
        self._open: list[socket.socket] = []
        self._over = False
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._accept, self._listen)]
        for thread in self._threads:
            thread.start()

    @property
    def heard(self) -> bytes:
        """All that came, in no particular order of connections."""
        with self._lock:
            return b"\n".join(self._heard)

    def forget(self) -> None:
        with self._lock:
            self._heard.clear()

    def _note(self, data: bytes) -> None:
        with self._lock:
            self._heard.append(data)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.tcp.accept()
            except OSError:
                return
            if self._over:
                client.close()
                return
            self._open.append(client)
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _serve(self, client: socket.socket) -> None:
        seen = b""
        with client, contextlib.suppress(OSError):
            self._note(b"(connected)")
            while data := client.recv(65536):
                self._note(data)
                ends = (seen[-3:] + data).replace(b"\r\n", b"\n").count(b"\n\n")
                seen = (seen + data)[-3:]
                client.sendall(ANSWER * ends)

    def _listen(self) -> None:
        while True:
            data, peer = self.udp.recvfrom(65536)
            if self._over:
                return
            self._note(data)
            self.udp.sendto(b"heard " + data, peer)

    def close(self) -> None:
        self._over = True
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", (self.host, self.port))
        self.tcp.shutdown(socket.SHUT_RDWR)
        for client in self._open:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        self.tcp.close()
        self.udp.close()


@contextlib.contextmanager
def recording(host: str = "127.0.0.1", port: int = 0) -> Iterator[Recorder]:
    """One of them, until the end of the block."""
    recorder = Recorder(host, port)
    try:
        yield recorder
    finally:
        recorder.close()


@contextlib.contextmanager
def agent(answer: Callable[[list[str]], str], port: int = 0) -> Iterator[int]:
    """A process outside that does what the tests tell it: one line of words in, one line out. Its port."""
    with socket.create_server(("127.0.0.1", port)) as server:

        def work() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client, client.makefile("rw", encoding="utf-8") as lines, contextlib.suppress(OSError):
                    for line in lines:
                        lines.write(answer(line.split()) + "\n")
                        lines.flush()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield int(server.getsockname()[1])
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)
