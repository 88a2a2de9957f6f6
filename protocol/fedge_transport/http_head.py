"""The first lines of an HTTP/1.1 answer, taken in as they come, bounded."""

from typing import Final

MOST_BYTES: Final = 8192
_END: Final = b"\r\n\r\n"


class MalformedAnswerError(OSError):
    """What came is no answer of an HTTP server."""


class HttpHead:
    """Collects bytes until the empty line.

    Attributes:
        status: the three digits, 0 until `feed` has returned something.
        reason: what the server says to it, printable, at most 80 characters.
        fields: by lower-case name; of a repeated one the last.
    """

    def __init__(self) -> None:
        self.status = 0
        self.reason = ""
        self.fields: dict[str, str] = {}
        self._held = bytearray()

    def feed(self, data: bytes) -> bytes | None:
        """Take in what came; returns what follows the head, or None while that is not complete.

        Raises:
            MalformedAnswerError: no HTTP, more than 8 KiB, or the end of the stream (no data).
        """
        if not data:
            raise MalformedAnswerError("the connection was closed without an answer")
        self._held += data
        end = self._held.find(_END)
        if end < 0:
            if len(self._held) > MOST_BYTES:
                raise MalformedAnswerError(f"no end of the answer within {MOST_BYTES} bytes")
            return None
        self._read(self._held[:end].decode("latin-1"))
        return bytes(self._held[end + len(_END) :])

    def _read(self, head: str) -> None:
        first, *others = head.split("\r\n")
        version, _, rest = first.partition(" ")
        digits, _, reason = rest.partition(" ")
        if not version.startswith("HTTP/1.") or len(digits) != 3 or not (digits.isascii() and digits.isdigit()):  # noqa: PLR2004  a status
            raise MalformedAnswerError(f"no HTTP answer: {first[:40]!r}")
        self.status = int(digits)
        self.reason = "".join(letter for letter in reason if letter.isprintable())[:80]
        for line in others:
            name, _, value = line.partition(":")
            self.fields[name.strip().lower()] = value.strip()
