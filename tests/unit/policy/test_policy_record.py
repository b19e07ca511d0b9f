"""`Record` is to behave as the named tuple that a type checker takes it for."""

from __future__ import annotations

import pickle
from typing import NamedTuple

import pytest

from fence_core.policy.record import Record


class Ours(Record):
    """With a docstring."""

    one: int
    two: str = "b"
    three: tuple[int, ...] = ()

    def double(self) -> int:
        return self.one * 2


class Theirs(NamedTuple):
    one: int
    two: str = "b"
    three: tuple[int, ...] = ()


@pytest.mark.parametrize("kind", [Ours, Theirs])
def test_fields_defaults_and_copies(kind: type[Ours] | type[Theirs]) -> None:
    made = kind(1, three=(3,))
    assert (made.one, made.two, made.three) == (1, "b", (3,))
    assert made == kind(1, "b", (3,)) == kind._make([1, "b", (3,)])
    assert hash(made) == hash(kind(one=1, three=(3,)))
    assert made._replace(two="c") == kind(1, "c", (3,))
    assert made._asdict() == {"one": 1, "two": "b", "three": (3,)}
    assert kind._fields == ("one", "two", "three")
    assert repr(made) == f"{kind.__name__}(one=1, two='b', three=(3,))"
    assert pickle.loads(pickle.dumps(made)) == made
    match made:
        case (one, two, _):
            assert (one, two) == (1, "b")


@pytest.mark.parametrize("kind", [Ours, Theirs])
def test_what_does_not_fit_is_refused(kind: type[Ours] | type[Theirs]) -> None:
    for arguments, named in (((), {}), ((1, "b", (), 4), {}), ((1,), {"four": 4}), ((1,), {"one": 1})):
        with pytest.raises(TypeError):
            kind(*arguments, **named)  # type: ignore[arg-type]
    with pytest.raises((TypeError, ValueError)):
        kind(1)._replace(four=4)  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", [Ours, Theirs])
def test_records_are_frozen_and_have_no_other_attributes(kind: type[Ours] | type[Theirs]) -> None:
    for name in ("one", "other"):
        with pytest.raises(AttributeError):
            setattr(kind(1), name, 2)


def test_a_record_has_methods_and_a_docstring() -> None:
    assert Ours(2).double() == 4
    assert Ours.__doc__ == "With a docstring."
