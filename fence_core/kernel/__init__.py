"""The kernel's interfaces, one file each: constants, structs, calls; no opinions.

Importing anything here is safe on any platform; only calling it may fail. Modules import `errors` and
each other, nothing else of the project, because they also run in a freshly forked child.
"""
