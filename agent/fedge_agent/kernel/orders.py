"""What `fedge-bpf` is to do, read and resolved: plain values, from the part that reads to the part that loads."""

from fedge_agent.kernel.frozen import dataclass
from fedge_agent.kernel.policy_records import PEER

EXIT_REFUSED = 1
EXIT_NOT_ENFORCED = 3
EXIT_TRY_AGAIN = 75
EXIT_CONFIG = 78


@dataclass(frozen=True, slots=True)
class Order:
    """One call of `fedge-bpf`, complete. Every field is plain, so that it passes through `apart`.

    Attributes:
        status: the exit status when there is nothing left to do; the reader has said why.
        guarded: network admission is wanted; the fields from `allow` to `limit_bytes` are its policy.
        allow: keys of the trie; `allowed`: the same for people.
        saved: (left, limit, day) of the day's budget as a former attachment left it.
        publish: (path, text) of what to publish once it is in force.
        daemon_binds: the daemon's unit binds the pins into its own mount namespace.
    """

    command: str = ""
    as_json: bool = False
    status: int | None = None
    pin_dir: str = ""
    budget_file: str = ""
    cgroup: str | None = None
    object_dir: str = ""
    compiler: str = "auto"
    mode: str = ""
    guarded: bool = False
    allow: tuple[bytes, ...] = ()
    allowed: tuple[str, ...] = ()
    rate_bytes_per_s: int | None = None
    limit_bytes: int | None = None
    saved: tuple[int, int, int] | None = None
    publish: tuple[str, str] | None = None
    reader_gid: int | None = None
    daemon_binds: bool = False
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, values: object) -> "Order":
        """An order from its fields, each of its own type.

        Raises:
            TypeError: it is none.
        """
        if not isinstance(values, tuple) or len(values) != len(cls.__slots__):
            raise TypeError("an order of other fields")
        for name, value in zip(cls.__slots__, values, strict=True):
            if not isinstance(value, _KINDS[name]):
                raise TypeError(f"{name} of an order is a {type(value).__name__}")
        order = cls(*values)
        if not all(isinstance(key, bytes) and len(key) == PEER.size for key in order.allow):
            raise TypeError("an entry of the allow-list has another form")
        return order

    def fields(self) -> tuple[object, ...]:
        """Its values in order, for `Order(*values)`."""
        return tuple(getattr(self, name) for name in self.__slots__)


_TEXT_OR_NONE, _NUMBER_OR_NONE, _TUPLE_OR_NONE = (str, type(None)), (int, type(None)), (tuple, type(None))
_KINDS: dict[str, type | tuple[type, ...]] = {
    "command": str,
    "as_json": bool,
    "status": _NUMBER_OR_NONE,
    "pin_dir": str,
    "budget_file": str,
    "cgroup": _TEXT_OR_NONE,
    "object_dir": str,
    "compiler": str,
    "mode": str,
    "guarded": bool,
    "allow": tuple,
    "allowed": tuple,
    "rate_bytes_per_s": _NUMBER_OR_NONE,
    "limit_bytes": _NUMBER_OR_NONE,
    "saved": _TUPLE_OR_NONE,
    "publish": _TUPLE_OR_NONE,
    "reader_gid": _NUMBER_OR_NONE,
    "daemon_binds": bool,
    "warnings": tuple,
}
