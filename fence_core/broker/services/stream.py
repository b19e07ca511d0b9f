"""What a session inside another one is refused, for whoever shows it there: a pipe with a JSON object a line.

Run by the supervisor. The session itself has become a command, which knows nothing of a fence.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

from fence_core.report.lines import Counts, as_data, as_text

if TYPE_CHECKING:
    from fence_core.broker.scopes import Worker
    from fence_core.events.ledger import Record

__all__ = ["open_stream"]


def open_stream(worker: Worker) -> int:
    """The end for the reader; ours goes with the worker. Raises OSError."""
    read_fd, worker.stream = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(read_fd, True)
    counts = Counts()

    def listener(record: Record, how: str) -> None:
        if not counts.is_due(record):
            return
        violation, moment = record.violation(), time.time()
        text = as_text(violation, moment, how)
        line = json.dumps({"text": text, "data": as_data(violation, moment, len(counts.shown), how)})
        try:
            os.write(worker.stream, line.encode() + b"\n")
        except OSError:
            pass  # nobody reads it, or not fast enough: the broker waits for nobody

    worker.scope.listener = listener
    return read_fd
