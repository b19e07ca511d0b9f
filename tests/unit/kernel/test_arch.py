"""The tables of call numbers agree with the kernel's own headers; unknown machines are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fence_core.errors import FenceUnavailable
from fence_core.kernel import arch

GENERIC_HEADERS = (Path("/usr/include/asm-generic/unistd.h"),)
X86_64_HEADERS = (
    Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    Path("/usr/include/asm/unistd_64.h"),
)
# From the same headers, for machines that have none: what a filter cannot do without.
EXCERPT = Path(__file__).with_name("call_numbers.txt")


def first_existing(paths: tuple[Path, ...]) -> Path | None:
    return next((path for path in paths if path.exists()), None)


def parse_generic(text: str) -> dict[str, int]:
    """The 64-bit half of asm-generic/unistd.h, as arm64 selects it."""
    numbers = {name: int(number) for name, number in re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)$", text, re.M)}
    # Calls with two widths are defined by another name, below, in a block for 64 bits and one for 32.
    wide_block = re.split(r"^#else$", text[text.index("#define __NR_fcntl __NR3264_fcntl") :], flags=re.M)[0]
    renamed = {
        name: wide
        for name, wide in re.findall(r"^#define __NR_(\w+) __NR3264_(\w+)$", wide_block, re.M)
        if wide in numbers  # stat and lstat are there for machines that define them
    }
    assert renamed["newfstatat"] == "fstatat"
    calls = {name: numbers[renamed.get(name, name)] for name in {*numbers, *renamed}}
    for name in ("fstatat", "syscalls", "arch_specific_syscall", "sync_file_range2"):
        calls.pop(name, None)  # no calls, or not arm64's
    # 403 to 423 are the calls with 64-bit times of 32-bit machines.
    return {name: number for name, number in calls.items() if not 403 <= number <= 423}


def parse_x86_64(text: str) -> dict[str, int]:
    return {name: int(number) for name, number in re.findall(r"^#define __NR_(\w+)\s+(\d+)$", text, re.M)}


def excerpt(machine: str) -> dict[str, int]:
    column = {"x86_64": 1, "aarch64": 2}[machine]
    words = (line.split() for line in EXCERPT.read_text().splitlines() if not line.startswith("#"))
    return {line[0]: int(line[column]) for line in words if line[column] != "-"}


@pytest.mark.parametrize(
    ("machine", "headers", "parse"),
    [("aarch64", GENERIC_HEADERS, parse_generic), ("x86_64", X86_64_HEADERS, parse_x86_64)],
)
def test_table_agrees_with_the_kernel_header(machine, headers, parse) -> None:
    """Both ways, as far as the header goes: no wrong number, no missing and no invented call."""
    path = first_existing(headers)
    known = parse(path.read_text()) if path else excerpt(machine)
    calls = arch.load(machine).calls
    newest = max(calls.values())
    assert {name: calls.get(name) for name, number in known.items() if number <= newest} == {
        name: number for name, number in known.items() if number <= newest
    }
    if path:
        # uretprobe and uprobe were squeezed in later, below newer numbers.
        later = {name for name, number in calls.items() if number > max(known.values())}
        assert set(calls) - set(known) - later <= {"uretprobe", "uprobe"}


@pytest.mark.parametrize("machine", arch.SUPPORTED)
def test_table_agrees_with_the_excerpt(machine) -> None:
    calls = arch.load(machine).calls
    assert {name: calls[name] for name in excerpt(machine)} == excerpt(machine)


def test_numbers_from_424_on_are_the_same_on_every_machine() -> None:
    tables = [
        {name: number for name, number in arch.load(machine).calls.items() if number >= 424}
        for machine in arch.SUPPORTED
    ]
    assert tables[0] == tables[1]
    assert sorted(tables[0].values()) == list(range(424, 470))
    assert (tables[0]["mseal"], tables[0]["setxattrat"], tables[0]["file_setattr"]) == (462, 463, 469)


@pytest.mark.parametrize("machine", arch.SUPPORTED)
def test_no_number_is_used_twice(machine) -> None:
    calls = arch.load(machine).calls
    assert len(set(calls.values())) == len(calls)
    assert list(calls.values()) == sorted(calls.values())


@pytest.mark.parametrize("machine", ["riscv64", "i686", "armv7l", "s390x", "unknown"])
def test_unknown_machine_is_refused_by_name(machine) -> None:
    with pytest.raises(FenceUnavailable) as caught:
        arch.check(machine, platform="linux", byteorder="little", pointer_bits=64)
    for word in (machine, "x86_64", "aarch64"):
        assert word in str(caught.value)


def test_32_bit_python_on_a_64_bit_kernel_is_refused() -> None:
    with pytest.raises(FenceUnavailable, match="32-bit Python"):
        arch.check("x86_64", platform="linux", byteorder="little", pointer_bits=32)


def test_other_systems_and_byte_orders_are_refused() -> None:
    with pytest.raises(FenceUnavailable, match="not Linux"):
        arch.check("x86_64", platform="darwin", byteorder="little", pointer_bits=64)
    with pytest.raises(FenceUnavailable, match="big-endian"):
        arch.check("aarch64", platform="linux", byteorder="big", pointer_bits=64)


def test_known_machine_is_accepted() -> None:
    assert arch.check("aarch64", platform="linux", byteorder="little", pointer_bits=64).name == "aarch64"
    assert arch.load("x86_64").x32_bit == 0x40000000
    assert arch.load("aarch64").x32_bit is None
