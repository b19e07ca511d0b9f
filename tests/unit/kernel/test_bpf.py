"""The assembled filter answers exactly what the rules say, for any call: checked by running it."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fence_core.kernel import arch, bpf
from fence_core.kernel.bpf import Case, Condition

X86 = arch.load("x86_64")
ARM = arch.load("aarch64")
ENOSYS = bpf.RET_ERRNO | errno.ENOSYS
ANY = (1 << 64) - 1


def run(program: bytes, nr: int, args: tuple[int, ...] = (), audit_arch: int = X86.audit_arch) -> int:
    """Run a filter as the kernel does: classic BPF over a struct seccomp_data."""
    data = struct.pack("=iIQ6Q", nr - (1 << 32) if nr >= 1 << 31 else nr, audit_arch, 0, *(*args, *(0,) * 6)[:6])
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator = 0
    at = 0
    while True:
        op, jt, jf, k = code[at]
        at += 1
        if op == bpf.RET_K:
            return k
        if op == bpf.LD_W_ABS:
            assert k % 4 == 0
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif op == bpf.JA:
            at += k
        elif op == bpf.JEQ:
            at += jt if accumulator == k else jf
        elif op == bpf.JGE:
            at += jt if accumulator >= k else jf
        elif op == bpf.JSET:
            at += jt if accumulator & k else jf
        else:
            raise AssertionError(f"unexpected opcode {op:#x}")


def holds(condition: Condition, args: tuple[int, ...]) -> bool:
    value = args[condition.arg] & ((1 << condition.width) - 1)
    return {
        "eq": value == condition.value,
        "ne": value != condition.value,
        "any_bits": value & condition.value != 0,
        "no_bits": value & condition.value == 0,
    }[condition.test]


def evaluate(action: bpf.Action, args: tuple[int, ...]) -> int:
    if isinstance(action, int):
        return action
    for case in action:
        if isinstance(case, int):
            return case
        if all(holds(condition, args) for condition in case.conditions):
            return case.action
    raise AssertionError("cases without a last answer")


words = st.sampled_from([0, 1, 2, 3, 0xFFFFFFFF, 0x80000000, 1 << 32, (1 << 32) | 1, ANY]) | st.integers(0, ANY)
results = st.sampled_from(
    [bpf.RET_ALLOW, bpf.RET_USER_NOTIF, bpf.RET_ERRNO | errno.EPERM, bpf.RET_ERRNO | errno.EACCES]
)


@st.composite
def conditions(draw: st.DrawFn) -> Condition:
    width = draw(st.sampled_from([32, 64]))
    return Condition(
        draw(st.integers(0, 5)),
        draw(st.sampled_from(["eq", "ne", "any_bits", "no_bits"])),
        draw(words) & ((1 << width) - 1),
        width,
    )


cases = st.builds(Case, st.lists(conditions(), max_size=4).map(tuple), results)
actions = results | st.builds(lambda some, last: (*some, last), st.lists(cases, min_size=1, max_size=4), results)
numbers = st.integers(0, 40) | st.sampled_from([0x3FFFFFFF, 0x3FFFFFFE, 469]) | st.integers(0, 500)


# No database: the tests also run as a user who may not write to the checkout.
@settings(max_examples=300, deadline=None, database=None)
@given(st.dictionaries(numbers, actions, max_size=30), actions, st.data())
@example({}, bpf.RET_ALLOW, None)
def test_program_answers_what_the_rules_say(rules, default, data) -> None:
    program = bpf.assemble(rules, default, arch=X86)
    probes = {0, 1, 0x3FFFFFFF, *rules, *(nr + 1 for nr in rules), *(nr - 1 for nr in rules if nr)}
    for nr in probes:
        if nr >= 0x40000000:
            continue
        args = data.draw(st.tuples(*[words] * 6)) if data else (0,) * 6
        assert run(program, nr, args) == evaluate(rules.get(nr, default), args), (nr, args)


@settings(deadline=None, database=None)
@given(conditions(), st.data())
def test_one_condition_both_ways(condition, data) -> None:
    """Drawn close to the condition's value, where random registers would hardly ever hit."""
    program = bpf.assemble({7: (Case((condition,), 1), 2)}, arch=X86)
    for _ in range(4):
        flip = data.draw(st.sampled_from([0, 1, 1 << 31, 1 << 32, 1 << 63, ANY]))
        register = (condition.value ^ flip) & ANY
        args = tuple(register if index == condition.arg else ANY for index in range(6))
        assert run(program, 7, args) == (1 if holds(condition, args) else 2)


def test_32_bit_condition_ignores_the_upper_half() -> None:
    """A program may leave anything there, and the kernel does not look."""
    program = bpf.assemble({7: (Case((Condition(1, "eq", 5, 32),), 1), 2)}, arch=X86)
    assert run(program, 7, (0, 5)) == 1
    assert run(program, 7, (0, 5 | 1 << 40)) == 1
    wide = bpf.assemble({7: (Case((Condition(1, "eq", 5, 64),), 1), 2)}, arch=X86)
    assert run(wide, 7, (0, 5)) == 1
    assert run(wide, 7, (0, 5 | 1 << 40)) == 2


@pytest.mark.parametrize("machine", [X86, ARM], ids=lambda machine: machine.name)
def test_foreign_architecture_gets_enosys(machine) -> None:
    program = bpf.assemble({}, arch=machine)
    i386 = 0x40000003
    assert run(program, 1, audit_arch=machine.audit_arch) == bpf.RET_ALLOW
    assert run(program, 1, audit_arch=i386) == ENOSYS
    assert run(program, 1, audit_arch=(ARM if machine is X86 else X86).audit_arch) == ENOSYS


def test_x32_gets_enosys_on_x86_64_only() -> None:
    program = bpf.assemble({2: bpf.RET_USER_NOTIF}, arch=X86)
    for nr in (0x40000000, 0x40000002, 0x40000200, 0x7FFFFFFF, 0xFFFFFFFF):
        assert run(program, nr) == ENOSYS
    arm = bpf.assemble({}, arch=ARM)
    assert run(arm, 0x40000000, audit_arch=ARM.audit_arch) == bpf.RET_ALLOW


def test_search_is_balanced() -> None:
    """No call takes more than about log2 steps: every trapped call pays for it."""
    rules = dict.fromkeys(range(0, 400, 2), bpf.RET_USER_NOTIF)
    program = bpf.assemble(rules, arch=X86)
    code = list(struct.iter_unpack("=HBBI", program))

    def depth(at: int) -> int:
        op, jt, jf, k = code[at]
        if op == bpf.RET_K:
            return 1
        if op == bpf.JA:
            return 1 + depth(at + 1 + k)
        if op == bpf.LD_W_ABS:
            return 1 + depth(at + 1)
        return 1 + max(depth(at + 1 + jt), depth(at + 1 + jf))

    assert depth(0) <= 4 + 2 * 9 + 1


def test_jumps_over_more_than_255_instructions_arrive() -> None:
    """Long jumps are taken in two steps; the encoding has eight bits for the distance."""
    long = tuple(Case((Condition(0, "eq", value, 64),), value) for value in range(1, 200))
    rules = dict.fromkeys((10, 20, 30), (*long, 999))
    program = bpf.assemble(rules, arch=X86)
    assert len(program) // 8 > 2000
    for nr in (9, 10, 11, 20, 29, 30, 31):
        for value in (0, 1, 100, 199, 200, 1 << 32):
            assert run(program, nr, (value,)) == evaluate(rules.get(nr, bpf.RET_ALLOW), (value,))


def test_a_case_with_many_conditions_skips_far() -> None:
    many = tuple(Condition(0, "ne", value, 64) for value in range(150))
    program = bpf.assemble({1: (Case(many, 5), 6)}, arch=X86)
    assert run(program, 1, (3,)) == 6
    assert run(program, 1, (149,)) == 6
    assert run(program, 1, (150,)) == 5


def test_too_long_a_program_is_refused() -> None:
    rules = {nr: (Case((Condition(0, "eq", nr),), 1), 2) for nr in range(0, 2000, 2)}
    with pytest.raises(ValueError, match="4096"):
        bpf.assemble(rules, arch=X86)


def test_neighbours_with_the_same_answer_share_a_step() -> None:
    apart = bpf.assemble(dict.fromkeys(range(0, 100, 2), bpf.RET_USER_NOTIF), arch=X86)
    together = bpf.assemble(dict.fromkeys(range(100), bpf.RET_USER_NOTIF), arch=X86)
    assert len(together) < len(apart) / 10
    assert bpf.assemble(dict.fromkeys(range(100), bpf.RET_ALLOW), arch=X86) == bpf.assemble({}, arch=X86)


@pytest.mark.parametrize(
    "rules",
    [
        {-1: 0},
        {0x40000000: 0},
        {1: -1},
        {1: 1 << 32},
        {1: ()},
        {1: (Case((), 0),)},
        {1: (0, 0)},
        {1: (Case((Condition(6, "eq", 0),), 0), 0)},
        {1: (Case((Condition(0, "eq", 1 << 32, 32),), 0), 0)},
        {1: (Case((Condition(0, "eq", 0, 16),), 0), 0)},
        {1: (Case((Condition(0, "lt", 0),), 0), 0)},
        {1: (Case((), 1 << 32), 0)},
    ],
)
def test_senseless_rules_are_refused(rules) -> None:
    with pytest.raises(ValueError, match=r"."):
        bpf.assemble(rules, arch=X86)


def test_errno_action() -> None:
    assert bpf.errno_action(errno.EPERM) == 0x00050001
    for wrong in (0, -1, 4096):
        with pytest.raises(ValueError, match="errno"):
            bpf.errno_action(wrong)
