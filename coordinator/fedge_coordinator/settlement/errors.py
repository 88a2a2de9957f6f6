"""What can go wrong while settling. Messages carry what happened, the value and the cure; never a URL, never a key."""


class SettlementError(Exception):
    """Base of everything this package raises on purpose."""


class RpcUnavailableError(SettlementError):
    """No endpoint answered in time. Rounds go on; the outbox keeps the backlog until one answers."""


class RpcError(SettlementError):
    """The node answered a request with an error object."""

    def __init__(self, method: str, code: int, message: str, data: bytes) -> None:
        super().__init__(f"{method}: node says {code} {message!r}")
        self.method = method
        self.code = code
        self.message = message
        self.data = data


class WrongChainError(SettlementError):
    """The endpoint serves another chain, or other code, than the manifest names. Correct the URL or the manifest."""


class RevertError(SettlementError):
    """A contract refuses the call; `name` and `arguments` are its custom error."""

    def __init__(self, name: str, arguments: tuple[object, ...]) -> None:
        shown = ", ".join("0x" + value.hex() if isinstance(value, bytes) else str(value) for value in arguments)
        super().__init__(f"{name}({shown})")
        self.name = name
        self.arguments = arguments


class EquivocationError(SettlementError):
    """A second, different document was asked for where the committee has signed one already. Nothing was signed."""


class UnknownJobError(SettlementError):
    """The job was not opened here. Call `open_job` first."""


class KeyFileError(SettlementError):
    """A key file is missing, malformed or readable by others. It wants 64 hex digits or 32 raw bytes, mode 0600."""


class BindingRefusedError(SettlementError):
    """A device's registration is not signed by the key it names, too old, or contradicts an earlier one."""


class PoolExhaustedError(SettlementError):
    """An epoch would promise more than the pool was funded with. Fund the pool, then settle again."""


class LedgerCorruptError(SettlementError):
    """A row of the local ledger does not follow from the one before it: the ledger was altered."""


class DocumentError(SettlementError):
    """A published document is not in its one canonical form, or misses a field."""
