"""Structures that calls for messages are given, as 64-bit machines have them. Source: include/linux/socket.h."""

from __future__ import annotations

import struct

MSGHDR = struct.Struct("@PI4xPNPNi4x")
"""struct msghdr: name, its size, vector, its length, control, its size, flags."""
IOVEC = struct.Struct("@PN")
"""struct iovec: address, length."""
