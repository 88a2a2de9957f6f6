"""Frozen records for the loader: `dataclasses` would cost it 2.5 MB, more than all of libbpf.

A type checker sees the real ones; what stands for them here is therefore not annotated.
"""
# ruff: noqa: ANN001, ANN002, ANN003, ANN201, ANN202, ARG001, N807 - as above; methods of a class that is made here

TYPE_CHECKING = False

if TYPE_CHECKING:
    from dataclasses import dataclass, replace
else:

    def dataclass(*, frozen, slots):
        """As `dataclasses.dataclass(frozen=True, slots=True)`: fields in order, defaults, equality, hash, repr."""
        if not (frozen and slots):
            raise TypeError("records of the loader are frozen and have slots")
        return _record

    def replace(record, **changes):
        """As `dataclasses.replace`."""
        return type(record)(**({name: getattr(record, name) for name in record.__slots__} | changes))

    def _record(cls):
        names = tuple(cls.__annotations__)
        defaults = {name: getattr(cls, name) for name in names if hasattr(cls, name)}

        def __init__(self, *values, **named):
            given = dict(zip(names, values)) | named  # noqa: B905 - too many are told below
            if len(values) > len(names) or len(given) < len(values) + len(named) or not given.keys() <= set(names):
                raise TypeError(f"{cls.__name__} has the fields {names}, each once")
            for name in names:
                if name not in given and name not in defaults:
                    raise TypeError(f"{cls.__name__} needs {name}")
                object.__setattr__(self, name, given.get(name, defaults.get(name)))

        def __setattr__(self, name, value):
            raise AttributeError(f"{cls.__name__} is frozen: {name} stays as it is")

        def __eq__(self, other):
            return type(other) is type(self) and all(getattr(self, n) == getattr(other, n) for n in names)

        def __hash__(self):
            return hash(tuple(getattr(self, name) for name in names))

        def __repr__(self):
            return f"{cls.__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

        own = {name: value for name, value in cls.__dict__.items() if name not in (*names, "__dict__", "__weakref__")}
        methods = (__init__, __setattr__, __eq__, __hash__, __repr__)
        return type(cls)(cls.__name__, cls.__bases__, own | {m.__name__: m for m in methods} | {"__slots__": names})


__all__ = ["dataclass", "replace"]
