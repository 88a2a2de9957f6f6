"""Takes out of a text what must not leave the device: keys, tokens, passwords, and where others are.

What is replaced gets a number, the same one wherever it stands in one report, so that "the same address again" can
still be seen. Rather too much than too little: any long run of hexadecimal or base64 digits goes.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

_PEM: Final = re.compile(r"-----BEGIN [^-]{1,64}-----.*?(?:-----END [^-]{1,64}-----|\Z)", re.DOTALL)
_TOKEN: Final = re.compile(r"fedge1\.[A-Za-z0-9_=-]+")
_URL_HOST: Final = re.compile(r"(?<=://)([^\s/@]+@)?(\[[^\]\s]*\]|[^\s/:\"'<>\[\]@,;]+)")
_HOST_AND_PORT: Final = re.compile(
    r"(?<![\w./-])(?=[\w.-]*[A-Za-z])([\w-]+(?:\.[\w-]+)+)(?<!\.py)(?<!\.toml)(?<!\.json)(?<!\.service)(?=:\d{1,5}\b)"
)
_NAMED: Final = re.compile(
    r"""(?ix)\b([\w-]*(?:passw(?:or)?d|passphrase|secret|token|api[_-]?key|private[_-]?key|authorization|cookie|mnemonic
    |seed)[\w-]*)(["']?\s*[:=]\s*)(?:(?:bearer|basic)\s+)?("[^"\n]*"|'[^'\n]*'|[^\s,;"']+)"""
)
_BEARER: Final = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/_.=-]{8,}")
_MAIL: Final = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_HEX: Final = re.compile(r"(?<![0-9A-Za-z])(?:0[xX])?[0-9a-fA-F]{32,}(?![0-9A-Za-z])")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{32,}={0,2}")
_MAC: Final = re.compile(r"\b(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}\b")
_IP4: Final = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\d\.)(?!\w)")
_IP6: Final = re.compile(r"(?<![\w:.])[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7}(?:(?:\d{1,3}\.){3}\d{1,3})?(?![\w:])")
_HOME: Final = re.compile(r"(?<=/home/)[^/\s\"':]+")
_SECRET_NAME: Final = re.compile(r"(?i)passw|passphrase|secret|token|private|credential|mnemonic|seed$")
REMOVED: Final = "<removed>"


class Redactor:
    """Redacts texts and plain values of one report.

    Args:
        keep: what may be shown although it looks like a secret: this device's own id.
        hosts: names that say where others are: of the CA, the broker, the allow rules, and of this device.
    """

    def __init__(self, keep: Iterable[str] = (), hosts: Iterable[str] = ()) -> None:
        self._keep = frozenset(word.lower() for word in keep)
        names = sorted({host for host in hosts if host and not _is_loopback(host)}, key=len, reverse=True)
        listed = "|".join(re.escape(name) for name in names)
        self._hosts = re.compile(rf"(?i)(?<![\w.-])(?:{listed})(?![\w-])") if names else None
        self._numbers: dict[tuple[str, str], int] = {}

    def text(self, text: str) -> str:
        """The text without secrets; lines stay lines."""
        text = _PEM.sub("<pem>", text)
        text = _TOKEN.sub("<token>", text)
        text = _BEARER.sub(r"\1 " + REMOVED, text)
        text = _NAMED.sub(lambda found: f"{found[1]}{found[2]}{REMOVED}", text)
        text = _URL_HOST.sub(lambda found: ("<credentials>@" if found[1] else "") + self._host(found[2]), text)
        if self._hosts is not None:
            text = self._hosts.sub(lambda found: self._numbered("host", found[0].lower()), text)
        text = _HOST_AND_PORT.sub(lambda found: self._host(found[0]), text)
        text = _MAIL.sub("<mail>", text)
        text = _HEX.sub(lambda found: self._hexadecimal(found[0]), text)
        text = _BASE64.sub(self._base64, text)
        text = _MAC.sub("<mac>", text)
        for pattern in (_IP4, _IP6):
            text = pattern.sub(lambda found: self._address(found[0]), text)
        return _HOME.sub("<user>", text)

    def plain(self, value: Any) -> Any:
        """JSON values without secrets: every text in them, and whatever has the name of a secret."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {
                self.text(str(name)): REMOVED if inner and _SECRET_NAME.search(str(name)) else self.plain(inner)
                for name, inner in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.plain(inner) for inner in value]
        return value if isinstance(value, bool | int | float) or value is None else self.text(str(value))

    def _numbered(self, kind: str, what: str) -> str:
        same = (kind, what)
        self._numbers.setdefault(same, sum(1 for known, _ in self._numbers if known == kind) + 1)
        return f"<{kind}-{self._numbers[same]}>"

    def _host(self, name: str) -> str:
        if name.startswith("<") or _is_loopback(name):
            return name
        return self._numbered("host", name.lower())

    def _hexadecimal(self, digits: str) -> str:
        return digits if digits.lower() in self._keep else self._numbered("hex", digits.lower())

    def _base64(self, found: re.Match[str]) -> str:
        digits = found[0]
        if digits.lower() in self._keep or not _mixed(digits):
            return digits  # a path, a word with many hyphens
        return "<base64>"

    def _address(self, text: str) -> str:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return text  # a time, a version
        return text if address.is_loopback or address.is_unspecified else self._numbered("address", str(address))


def _mixed(digits: str) -> bool:
    tests: tuple[Callable[[str], bool], ...] = (str.isupper, str.islower)
    return all(any(test(character) for character in digits) for test in tests)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
