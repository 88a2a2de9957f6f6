"""Plain values as bytes, for a pipe whose other end might be in wrong hands: `marshal` trusts, json costs 350 kB.

A value is a letter and what belongs to it: `n`, `t`, `f` (None, True, False); `i`, `s`, `b` (number, text, bytes), the
length in decimal, a colon and so many bytes; `l` (tuple), the count in decimal, a colon and so many values.
"""

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 4
_MAX_DIGITS = 7
_MAX_INT_DIGITS = 20
_CONSTANTS = {b"n": None, b"t": True, b"f": False}
_LETTERS = {None: b"n", True: b"t", False: b"f"}


class NotPlainError(ValueError):
    """A value that has no such form, or bytes that are none."""


def encode(value: object) -> bytes:
    """The bytes of a value; lists become tuples.

    Raises:
        NotPlainError: neither None, bool, int, str, bytes nor a tuple or list of them.
    """
    if value is None or isinstance(value, bool):
        return _LETTERS[value]
    if isinstance(value, int):
        return _with_length(b"i", str(value).encode())
    if isinstance(value, str):
        return _with_length(b"s", value.encode(errors="surrogateescape"))
    if isinstance(value, bytes):
        return _with_length(b"b", value)
    if isinstance(value, tuple | list):
        return b"l%d:" % len(value) + b"".join(encode(item) for item in value)
    raise NotPlainError(f"{type(value).__name__} is no plain value")


def _with_length(letter: bytes, content: bytes) -> bytes:
    return letter + b"%d:" % len(content) + content


def decode(data: bytes) -> object:
    """The value of these bytes, all of them.

    Raises:
        NotPlainError: they are no value, more than `MAX_BYTES`, or deeper than `MAX_DEPTH`.
    """
    if len(data) > MAX_BYTES:
        raise NotPlainError(f"{len(data)} bytes are more than {MAX_BYTES}")
    value, end = _value(data, 0, MAX_DEPTH)
    if end != len(data):
        raise NotPlainError(f"{len(data) - end} bytes follow the value")
    return value


def _value(data: bytes, at: int, depth: int) -> tuple[object, int]:
    letter = data[at : at + 1]
    if letter in _CONSTANTS:
        return _CONSTANTS[letter], at + 1
    colon = data.find(b":", at + 1, at + 2 + _MAX_DIGITS)
    digits = data[at + 1 : colon]
    if colon < 0 or not digits.isdigit():
        raise NotPlainError(f"no length at byte {at + 1}")
    number, begin = int(digits), colon + 1
    if letter == b"l":
        return _items(data, begin, number, depth)
    content = data[begin : begin + number]
    if len(content) < number:
        raise NotPlainError(f"{number} bytes are announced at byte {at}, {len(content)} are there")
    return _scalar(letter, content), begin + number


def _items(data: bytes, at: int, count: int, depth: int) -> tuple[object, int]:
    if not depth:
        raise NotPlainError(f"deeper than {MAX_DEPTH} at byte {at}")
    items = []
    for _ in range(count):
        item, at = _value(data, at, depth - 1)
        items.append(item)
    return tuple(items), at


def _scalar(letter: bytes, content: bytes) -> object:
    if letter == b"b":
        return content
    try:
        if letter == b"s":
            return content.decode(errors="surrogateescape")
        if letter == b"i" and content.removeprefix(b"-").isdigit() and len(content) <= _MAX_INT_DIGITS:
            return int(content)
    except ValueError as error:
        raise NotPlainError(str(error)) from error
    raise NotPlainError(f"no value of kind {letter!r}")
