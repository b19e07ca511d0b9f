"""Named tuples for less: what the values of this package are made of.

For a type checker `Record` is `typing.NamedTuple`. At run time it does the same without generating code and without
looking at the annotations, which cost 0.2 ms for each of two dozen classes at every start of a fenced run. (Frozen
dataclasses cost twice that again.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["Record"]

if TYPE_CHECKING:
    from typing import NamedTuple as Record
else:
    from operator import itemgetter

    _new = tuple.__new__

    class _Meta(type):
        """Turns the annotated names of a class body into the fields of a tuple."""

        def __new__(cls, name, bases, body):
            if not bases:
                return super().__new__(cls, name, (tuple,), body)
            fields = tuple(body.get("__annotations__", ()))
            defaults = {field: body[field] for field in fields if field in body}
            last = [defaults[field] for field in fields[len(fields) - len(defaults) :] if field in defaults]
            getters = {field: property(itemgetter(place)) for place, field in enumerate(fields)}
            body = {
                **body,
                **getters,
                "__slots__": (),
                "__match_args__": fields,
                "_fields": fields,
                "_field_defaults": defaults,
                "_defaults": tuple(last) if len(last) == len(defaults) else (),
                "_size": len(fields),
            }
            return super().__new__(cls, name, bases, body)

    class Record(metaclass=_Meta):
        """Base of a class whose annotated names are its fields, in this order, with defaults where given."""

        __slots__ = ()
        _fields = ()
        _field_defaults = {}  # noqa: RUF012 - never changed
        _defaults = ()
        """Of the last fields, where no field without one follows."""
        _size = 0

        def __new__(cls, *args, **named):
            if named or len(args) != cls._size:
                args = cls._completed(args, named)
            return _new(cls, args)

        @classmethod
        def _completed(cls, args, named):
            missing = cls._fields[len(args) :]
            if not named and missing and len(missing) <= len(cls._defaults):
                return args + cls._defaults[-len(missing) :]
            values = {**cls._field_defaults, **named}
            try:
                args += tuple([values[field] for field in missing])
            except KeyError as error:
                raise TypeError(f"{cls.__name__}() needs {error.args[0]}") from None
            if len(args) != cls._size or any(name not in missing for name in named):
                raise TypeError(f"{cls.__name__}() takes {', '.join(cls._fields)}")
            return args

        # By kind too: `Resolve("x")` is not `Read("x")`.
        def __eq__(self, other):
            return type(self) is type(other) and tuple.__eq__(self, other)

        def __ne__(self, other):
            return not self == other

        __hash__ = tuple.__hash__

        def __repr__(self):
            fields = ", ".join(f"{field}={value!r}" for field, value in zip(self._fields, self, strict=True))
            return f"{type(self).__name__}({fields})"

        def __getnewargs__(self):
            return tuple(self)

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def _replace(self, **changes):
            return type(self)(**{**self._asdict(), **changes})

        __replace__ = _replace  # copy.replace, from 3.13 on

        @classmethod
        def _make(cls, values):
            return cls(*values)
