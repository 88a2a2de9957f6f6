"""What can go wrong at the CA itself. What a device asked wrongly is an `EnrolmentRefusedError`."""


class EnrolmentError(Exception):
    """The family. Says what happened, the value at fault and the cure."""


class SettingsError(EnrolmentError):
    """`ca.toml` or an argument cannot be used."""


class AuthorityFilesError(EnrolmentError):
    """A key, certificate or directory of the CA is missing, readable by others, or not what it should be."""


class BusyError(EnrolmentError):
    """Another process owns the CA's directory, and does not answer on its socket."""


class NotFoundError(EnrolmentError):
    """No such token, device or service."""


class BrokerError(EnrolmentError):
    """The broker could not be told about a revocation."""


class MembershipUnavailableError(EnrolmentError):
    """The CA's membership log cannot be read now. What is known stays known."""
