"""What can go wrong with a device's identity. The text is what the owner sees: what, the value at fault, the cure."""


class IdentityError(Exception):
    """The family."""


class KeyFileError(IdentityError):
    """A private file is missing, readable by others, or no key of the right kind."""


class NotEnrolledError(IdentityError):
    """The device belongs to no fleet yet."""


class AlreadyEnrolledError(IdentityError):
    """The device belongs to a fleet already."""


class TokenError(IdentityError):
    """The token cannot be used on this device."""


class CaUnreachableError(IdentityError):
    """The CA does not answer, or not in the way a Fedge CA does. The same command may be run again."""


class CaUntrustedError(IdentityError):
    """The server is not the CA that the token names. Nothing secret was sent to it."""


class ClockError(IdentityError):
    """This device's clock is wrong; certificates cannot be judged."""


class RefusedByCaError(IdentityError):
    """The CA refused. `reason` is an `EnrolmentReason`, or a name that this agent does not know yet."""

    def __init__(self, reason: str, detail: str, cure: str) -> None:
        super().__init__(f"the fleet's CA refused ({reason}): {detail}. {cure}")
        self.reason = reason
        self.cure = cure
