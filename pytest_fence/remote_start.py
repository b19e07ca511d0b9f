"""Sent to another machine by the carrier, and run there by execnet: find pytest-fence, and have it start a worker.

Nothing of ours is known to be there, nor that it is of the version that sent this: so it asks before it imports.
Answers with what stands in the way, as `fence_core.launcher.remote.serve` does.
"""

import os
import sys

if __name__ == "__channelexec__":
    channel = globals()["channel"]
    wanted, order = channel.receive()
    base = order["base"]
    found = None
    try:
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("pytest-fence")
        except PackageNotFoundError:
            pass
    except ImportError:
        pass
    if not sys.platform.startswith("linux"):
        channel.send({"why": f"the fence needs Linux, and this is {sys.platform}"})
    elif found != wanted:
        there = f"pytest-fence {found} is installed there" if found else "pytest-fence is not installed there"
        python = f"Python {sys.version_info[0]}.{sys.version_info[1]}, {sys.executable}"
        needed = f"the same version as here is needed: pip install pytest-fence=={wanted}"
        channel.send({"why": f"{there} ({python}), and {needed}"})
    else:
        from fence_core.launcher.remote import serve

        if base and not os.path.isdir(base):
            os.mkdir(base)
        serve(channel, order)
