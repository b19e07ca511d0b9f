"""Clients of debuggers, as an editor has them: DAP for debugpy, and pydevd's own protocol of lines for PyCharm.

Run by the outer pytest, which is not fenced. They wait for messages, never for time.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.end_to_end.support import SECONDS

Message = dict[str, Any]


class Stop:
    """Where the debugged program has stopped."""

    def __init__(self, thread: Any, function: str, line: int, values: Mapping[str, str]) -> None:
        self.thread = thread
        self.function = function
        self.line = line
        self.values = values
        """Local variables, as the debugger shows them."""

    def at(self) -> tuple[str, int]:
        return self.function, self.line


class Dap:
    """A client of the Debug Adapter Protocol. Source: microsoft.github.io/debug-adapter-protocol/specification."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._sock = socket.create_connection(address, SECONDS)
        self._file = self._sock.makefile("rb")
        self._number = 0
        self._kept: list[Message] = []

    def _send(self, command: str, **arguments: Any) -> int:
        self._number += 1
        message = {"seq": self._number, "type": "request", "command": command, "arguments": arguments}
        data = json.dumps(message).encode()
        self._sock.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(data), data))
        return self._number

    def _read(self) -> Message:
        length = 0
        while (line := self._file.readline()) != b"\r\n":
            assert line, f"the adapter has hung up; unread: {self._kept}"
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        message: Message = json.loads(self._file.read(length))
        return message

    def _await(self, wanted: Callable[[Message], bool]) -> Message:
        for place, message in enumerate(self._kept):
            if wanted(message):
                return self._kept.pop(place)
        while not wanted(message := self._read()):
            self._kept.append(message)
        return message

    def event(self, name: str) -> Message:
        body: Message = self._await(lambda it: it["type"] == "event" and it["event"] == name).get("body", {})
        return body

    def _answer(self, number: int) -> Message:
        message = self._await(lambda it: it["type"] == "response" and it["request_seq"] == number)
        assert message["success"], message
        body: Message = message.get("body", {})
        return body

    def ask(self, command: str, **arguments: Any) -> Message:
        return self._answer(self._send(command, **arguments))

    def attach(self, breakpoints: Mapping[Path, int], **arguments: Any) -> None:
        """Begin a session, with a breakpoint in each of these files; the program goes on."""
        self.ask("initialize", adapterID="test", pathFormat="path", linesStartAt1=True, columnsStartAt1=True)
        attached = self._send("attach", name="test", type="python", request="attach", **arguments)
        self.event("initialized")
        for path, line in breakpoints.items():
            self.ask("setBreakpoints", source={"path": str(path)}, breakpoints=[{"line": line}])
        self.ask("configurationDone")
        self._answer(attached)

    def stop(self) -> Stop:
        """Await a breakpoint."""
        thread = self.event("stopped")["threadId"]
        frame = self.ask("stackTrace", threadId=thread)["stackFrames"][0]
        scopes = self.ask("scopes", frameId=frame["id"])["scopes"]
        (number,) = (scope["variablesReference"] for scope in scopes if scope["name"] == "Locals")
        variables = self.ask("variables", variablesReference=number)["variables"]
        return Stop(thread, frame["name"], frame["line"], {each["name"]: each["value"] for each in variables})

    def resume(self, stop: Stop) -> None:
        self.ask("continue", threadId=stop.thread)

    def end(self) -> None:
        """Await the end of the program, and let the adapter go."""
        self.event("terminated")
        self.ask("disconnect")
        self.close()

    def close(self) -> None:
        self._file.close()
        self._sock.close()


class Ide:
    """What pydevd connects to. Source: its _pydevd_bundle/pydevd_comm_constants.py and others there."""

    RUN, THREAD_SUSPENDED, GO_ON, SET_BREAK, GET_FRAME, VERSION = 101, 105, 106, 111, 114, 501

    def __init__(self, listener: socket.socket | None = None) -> None:
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(SECONDS)
        self.port: int = self._listener.getsockname()[1]
        self._number = -1

    def accept(self) -> None:
        """The debugged process has connected."""
        self._sock, _ = self._listener.accept()
        self._sock.settimeout(SECONDS)
        self._file = self._sock.makefile("rb")
        self._send(self.VERSION, "1.1\tUNIX\tID")
        self._await(self.VERSION)

    def another(self) -> Ide:
        """The next process that connects."""
        other = Ide(self._listener)
        other.accept()
        return other

    def _send(self, command: int, text: str = "") -> None:
        self._number += 2
        self._sock.sendall(f"{command}\t{self._number}\t{text}\n".encode())

    def _await(self, command: int) -> str:
        for line in self._file:
            if line.startswith(b"%d\t" % command):
                return unquote(line.decode().rstrip("\n").split("\t", 2)[2])
        raise AssertionError(f"the debugged process has hung up before {command}")

    def run(self, breakpoints: Mapping[Path, int]) -> None:
        """Let it begin, with a breakpoint in each of these files."""
        for number, (path, line) in enumerate(breakpoints.items()):
            # Function, condition, expression, how often, whether only to log, which threads.
            self._send(self.SET_BREAK, f"{number}\tpython-line\t{path}\t{line}\tNone\tNone\tNone\tNone\tFalse\tNONE")
        self._send(self.RUN)

    def stop(self) -> Stop:
        text = self._await(self.THREAD_SUSPENDED)
        (thread,) = re.findall(r'<thread id="([^"]+)"', text)
        frame, function, line = re.findall(r'<frame id="(\d+)" name="([^"]+)".*? line="(\d+)"', text)[0]
        self._send(self.GET_FRAME, f"{thread}\t{frame}\tFRAME")
        variables = unquote(self._await(self.GET_FRAME))
        values = re.findall(r'<var name="([^"]+)"[^>]* value="([^"]*)"', variables)
        return Stop(thread, function, int(line), dict(values))

    def resume(self, stop: Stop) -> None:
        self._send(self.GO_ON, stop.thread)

    def end(self) -> None:
        """Await the end of the connection."""
        while self._file.readline():
            pass
        self.close()

    def close(self) -> None:
        self._file.close()
        self._sock.close()
        self._listener.close()
