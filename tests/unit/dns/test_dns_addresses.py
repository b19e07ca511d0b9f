"""Synthetic addresses: one for a name, none twice, and known again."""

from __future__ import annotations

import pytest

from fence_core.dns.addresses import LIMIT, NamesUsedUp, SyntheticAddresses


def test_a_name_keeps_its_address_and_shares_it_with_nobody() -> None:
    addresses = SyntheticAddresses()
    first, second = addresses.address_of("a.example"), addresses.address_of("b.example")
    assert first != second
    assert addresses.address_of("a.example") == first
    assert addresses.name_of(first) == "a.example"
    assert addresses.name_of(second) == "b.example"


def test_the_same_look_ups_give_the_same_addresses() -> None:
    names = [f"{number}.example" for number in range(10)]
    runs = [SyntheticAddresses() for _ in range(2)]
    first, second = ([run.address_of(name) for name in names] for run in runs)
    assert first == second


def test_every_address_is_another_one_of_the_range_until_all_are_used_up() -> None:
    addresses = SyntheticAddresses()
    given = {addresses.address_of(f"{number}.example") for number in range(LIMIT)}
    assert len(given) == len(addresses) == LIMIT
    assert all(address.startswith(("198.18.", "198.19.")) for address in given)
    assert not given & {"198.18.0.0", "198.18.255.255", "198.19.0.0", "198.19.255.255"}
    with pytest.raises(NamesUsedUp, match=r"one-more\.example.*131,000") as caught:
        addresses.address_of("one-more.example")
    assert caught.value.name == "one-more.example"
    assert addresses.address_of("7.example") in given  # the old ones still work


@pytest.mark.parametrize("address", ["198.18.0.0", "198.18.0.1", "198.19.255.255", "::ffff:198.18.0.9", "0xc6.18.1"])
def test_the_range_is_known_in_every_spelling(address: str) -> None:
    assert SyntheticAddresses().covers(address)


@pytest.mark.parametrize(
    "address", ["198.17.255.255", "198.20.0.0", "127.0.0.1", "::1", "64:ff9b::c612:1", "a.example", "198.18.0.256", ""]
)
def test_nothing_else_is_of_the_range(address: str) -> None:
    addresses = SyntheticAddresses()
    addresses.address_of("a.example")
    assert not addresses.covers(address)
    assert addresses.name_of(address) is None


def test_an_address_never_handed_out_has_no_name() -> None:
    addresses = SyntheticAddresses()
    addresses.address_of("a.example")
    assert addresses.covers("198.18.7.7")
    assert addresses.name_of("198.18.7.7") is None


def test_an_ipv4_mapped_address_is_the_address() -> None:
    addresses = SyntheticAddresses()
    assert addresses.name_of("::ffff:" + addresses.address_of("a.example")) == "a.example"
