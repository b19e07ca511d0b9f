"""The console script. Run by the process that the user started; nothing here but what comes before the first import."""

from __future__ import annotations

import gc
from typing import NoReturn


def main() -> NoReturn:
    """`fence`."""
    gc.disable()  # see `main.py`; half of the modules are imported before that
    from fence_core.command.main import main

    main()
