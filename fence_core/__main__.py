"""`python -m fence_core`: the same as `fence`.

The directory that it is started in comes first on the path: what lies there must not be imported, unfenced, by us. What
is called `fence_core` there is found before this file is, so in a checkout of strangers `fence` is to be used.
"""

import sys

if sys.path and not getattr(sys.flags, "safe_path", False):
    del sys.path[0]

from fence_core.command.start import main

if __name__ == "__main__":
    main()
