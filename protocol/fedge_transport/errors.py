"""What can go wrong between here and the broker."""


class TransportError(Exception):
    """The family of everything `fedge_transport` raises."""


class DisconnectedError(TransportError):
    """There is no connection, or it broke before the broker answered. Send again when `Connected` is reported."""


class NotAuthorisedError(TransportError):
    """The broker's access list forbids this topic to this identity. Correct the configuration; a retry cannot help.

    Mosquitto closes the connection after it said so; the connection comes back by itself.
    """


class TooLargeError(TransportError):
    """The message is larger than this side or the broker allows. Send it as chunks."""


class PublishRefusedError(TransportError):
    """The broker answered a publication with an error other than the two that have their own class."""


class SubscribeRefusedError(TransportError):
    """The broker refused a subscription filter."""


class MissingBlobError(TransportError):
    """The broker does not hold all chunks of a blob. Ask its publisher for them (WANT), then fetch again.

    Args:
        sha256_hex: the blob.
        missing: the chunk numbers that did not come, ascending.
    """

    def __init__(self, sha256_hex: str, missing: tuple[int, ...]) -> None:
        super().__init__(f"{len(missing)} chunks of blob {sha256_hex} did not come, the first is {missing[0]}")
        self.sha256_hex = sha256_hex
        self.missing = missing


class AddressUnknownError(OSError):
    """Nothing says at which address the host is. The attempt is repeated."""


class ProxyRefusedError(OSError):
    """The proxy does not let the connection through; the message says why, and the cure."""
