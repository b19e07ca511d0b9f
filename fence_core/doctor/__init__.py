"""Whether this machine can fence, proved by trying: for `fence doctor` and `pytest --fence-doctor`.

Run by a process that is not fenced itself, or by one in a fence around it. What is tried is tried in children, against
servers of their parent's on loopback: nothing leaves the machine, and nothing stays.
"""
