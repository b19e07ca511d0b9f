"""Assembles seccomp filters: rules per call number -> bytes of a classic BPF program. Pure.

The program tests the machine first, since call numbers mean nothing without it, and then searches the call
number by halving. Sources: seccomp(2), Documentation/networking/filter.rst, kernel/seccomp.c.

Facts that shaped it:
- A conditional jump reaches 255 instructions ahead, never back; an unconditional one reaches everywhere.
- The kernel runs the program once per call number when it is installed and remembers which numbers are
  allowed whatever the arguments (seccomp_cache_prepare). It understands the instructions used before an
  argument is loaded here, so that an untrapped call costs nothing, however long the program.
- Arguments are 64-bit registers, but a call that takes an int looks at the low half only and a program may
  leave anything in the high half: such an argument must be compared with width 32, a pointer with 64.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Literal, NamedTuple, Union

from fence_core.kernel import arch as _arch

if TYPE_CHECKING:
    from collections.abc import Mapping

# What a program may answer. Source: include/uapi/linux/seccomp.h.
RET_ERRNO = 0x00050000  # | errno
RET_USER_NOTIF = 0x7FC00000
RET_ALLOW = 0x7FFF0000

ENOSYS = 38  # not from `errno`, whose numbers are the building machine's

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS, include/uapi/linux/bpf_common.h

# Opcodes. Source: include/uapi/linux/bpf_common.h.
LD_W_ABS = 0x20
JA = 0x05
JEQ = 0x15
JGE = 0x35
JSET = 0x45
RET_K = 0x06

# struct seccomp_data { int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6]; };
_NR = 0
_ARCH = 4
_ARGS = 16

_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter { __u16 code; __u8 jt; __u8 jf; __u32 k; };
_MAX_JUMP = 255
_LOW = 0xFFFFFFFF

Test = Literal["eq", "ne", "any_bits", "no_bits"]


class Condition(NamedTuple):
    """A test of one argument."""

    arg: int  # 0 to 5
    test: Test  # any_bits: argument & value is not 0; no_bits: it is 0
    value: int
    width: int = 32  # bits of the argument that the call looks at: 32 for an int, 64 for a pointer or a size


class Case(NamedTuple):
    """Answer `action` when all `conditions` hold."""

    conditions: tuple[Condition, ...]
    action: int


# What to answer to one call: a RET_* value, or cases tried in order and, last, the value for all else.
Action = Union[int, "tuple[Case | int, ...]"]


def errno_action(errno: int) -> int:
    """Return the action that makes a call fail with `errno` (1 to 4095)."""
    if not 0 < errno < 4096:
        raise ValueError(f"errno {errno} is not between 1 and 4095")
    return RET_ERRNO | errno


# An item of unplaced code: (code, k, label if true, label if false), a label of None being the next item;
# or a bare label, which marks the item after it.
_Item = Union["tuple[int, int, int | None, int | None]", int]


class _Code:
    """Code with labels instead of distances."""

    def __init__(self) -> None:
        self.items: list[_Item] = []
        self._labels = 0

    def label(self) -> int:
        self._labels += 1
        return self._labels

    def put(self, code: int, k: int, true: int | None = None, false: int | None = None) -> None:
        self.items.append((code, k, true, false))

    def place(self, label: int) -> None:
        self.items.append(label)

    def to_bytes(self) -> bytes:
        """Replace labels by distances; a conditional jump that is too far is taken in two steps."""
        items = self.items
        far: set[int] = set()  # indexes of conditional jumps that need the long form; only ever grows
        while True:
            places: dict[int, int] = {}
            starts: list[int] = []
            at = 0
            for index, item in enumerate(items):
                starts.append(at)
                if isinstance(item, int):
                    places[item] = at
                else:
                    at += 3 if index in far else 1
            grown = len(far)
            for index, item in enumerate(items):
                if isinstance(item, int) or item[0] in (JA, RET_K, LD_W_ABS) or index in far:
                    continue
                for label in item[2:]:
                    if label is not None and places[label] - starts[index] - 1 > _MAX_JUMP:
                        far.add(index)
            if len(far) == grown:
                break
        if at > MAX_INSTRUCTIONS:
            raise ValueError(f"the filter has {at} instructions; the kernel takes {MAX_INSTRUCTIONS}")

        pack = _INSTRUCTION.pack
        out: list[bytes] = []
        for index, item in enumerate(items):
            if isinstance(item, int):
                continue
            code, k, true, false = item
            start = starts[index]
            if code in (RET_K, LD_W_ABS):
                out.append(pack(code, 0, 0, k))
            elif index in far:
                after = start + 3
                out.append(pack(code, 0, 1, k))
                out.append(pack(JA, 0, 0, (after if true is None else places[true]) - start - 2))
                out.append(pack(JA, 0, 0, (after if false is None else places[false]) - start - 3))
            else:
                after = start + 1
                jump_true = 0 if true is None else places[true] - after
                jump_false = 0 if false is None else places[false] - after
                out.append(pack(code, jump_true, jump_false, k))
        return b"".join(out)


def _check_value(action: object) -> None:
    if not isinstance(action, int) or not 0 <= action <= _LOW:
        raise ValueError(f"{action!r} is not a 32-bit return value of a filter")


def _check(nr: int, action: Action, limit: int) -> None:
    if not 0 <= nr < limit:
        raise ValueError(f"call number {nr} is out of range")
    if isinstance(action, int):
        _check_value(action)
        return
    if not action or not isinstance(action[-1], int):
        raise ValueError(f"call {nr}: the last of its cases must be the answer to everything else")
    _check_value(action[-1])
    for case in action[:-1]:
        if isinstance(case, int):
            raise ValueError(f"call {nr}: only the last of its cases may be without conditions")
        _check_value(case.action)
        for condition in case.conditions:
            if not 0 <= condition.arg <= 5:
                raise ValueError(f"call {nr}: there is no argument {condition.arg}")
            if condition.width not in (32, 64):
                raise ValueError(f"call {nr}: width {condition.width} is neither 32 nor 64")
            if not 0 <= condition.value < 1 << condition.width:
                raise ValueError(f"call {nr}: {condition.value:#x} does not fit {condition.width} bits")
            if condition.test not in ("eq", "ne", "any_bits", "no_bits"):
                raise ValueError(f"call {nr}: unknown test {condition.test!r}")


def _put_condition(code: _Code, condition: Condition, failed: int) -> None:
    """Append code that falls through when the condition holds and jumps to `failed` when it does not."""
    low = _ARGS + 8 * condition.arg  # both machines are little-endian
    value = condition.value & _LOW
    if condition.test in ("eq", "ne"):
        op = JEQ
        wants = condition.test == "eq"
    else:
        op = JSET
        wants = condition.test == "any_bits"
    if condition.width == 32:
        code.put(LD_W_ABS, low)
        code.put(op, value, None if wants else failed, failed if wants else None)
        return
    high_value = condition.value >> 32
    holds = code.label()
    if op == JEQ:
        # Equal means both halves; one different half settles it.
        differs = failed if wants else holds
        code.put(LD_W_ABS, low)
        code.put(JEQ, value, None, differs)
        code.put(LD_W_ABS, low + 4)
        code.put(JEQ, high_value, None if wants else failed, failed if wants else None)
    else:
        # Any bit in either half; the first half that has one settles it.
        found = holds if wants else failed
        code.put(LD_W_ABS, low)
        code.put(JSET, value, found, None)
        code.put(LD_W_ABS, low + 4)
        code.put(JSET, high_value, None if wants else failed, failed if wants else None)
    code.place(holds)


def _put_action(code: _Code, action: Action) -> None:
    if isinstance(action, int):
        code.put(RET_K, action)
        return
    for case in action:
        if isinstance(case, int):
            code.put(RET_K, case)
            return
        failed = code.label()
        for condition in case.conditions:
            _put_condition(code, condition, failed)
        code.put(RET_K, case.action)
        code.place(failed)


def _put_search(code: _Code, steps: list[tuple[int, Action]]) -> None:
    """Append a search for the last step whose number is not above the loaded call number."""
    if len(steps) == 1:
        _put_action(code, steps[0][1])
        return
    middle = len(steps) // 2
    upper = code.label()
    code.put(JGE, steps[middle][0], upper, None)
    _put_search(code, steps[:middle])
    code.place(upper)
    _put_search(code, steps[middle:])


def assemble(rules: Mapping[int, Action], default: Action = RET_ALLOW, *, arch: _arch.Arch | None = None) -> bytes:
    """Return a filter for this machine (or `arch`): answers `rules` by call number, `default` to the rest.

    A call of another architecture, or of x32, fails with ENOSYS. Raises `ValueError` for a rule that makes no
    sense and for a program of more than 4096 instructions; `FenceUnavailable` on an unknown machine.
    """
    arch = arch or _arch.current()
    limit = arch.x32_bit or 1 << 32
    _check(0, default, limit)
    # Each step holds from its number up to the next step's.
    steps: list[tuple[int, Action]] = [(0, default)]
    for nr in sorted(rules):
        action = rules[nr]
        _check(nr, action, limit)
        if steps[-1][0] == nr:
            steps.pop()
        if not steps or steps[-1][1] != action:
            steps.append((nr, action))
        if nr + 1 < limit and action != default:
            steps.append((nr + 1, default))
    if arch.x32_bit is not None:
        # From the bit up: -1, the number of a call that a tracer skipped, lands here too; ENOSYS anyway.
        steps.append((arch.x32_bit, RET_ERRNO | ENOSYS))

    code = _Code()
    native = code.label()
    code.put(LD_W_ABS, _ARCH)
    code.put(JEQ, arch.audit_arch, native, None)
    code.put(RET_K, RET_ERRNO | ENOSYS)
    code.place(native)
    code.put(LD_W_ABS, _NR)
    _put_search(code, steps)
    return code.to_bytes()
