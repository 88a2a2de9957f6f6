"""What the secure aggregation of one bucket refuses, each by its name."""
# ruff: noqa: N818 - these are the protocol's own words for what went wrong, and read better bare.

from fedge_protocol.errors import ProtocolError


class SecAggError(ProtocolError):
    """The family of everything `fedge_protocol.secagg` raises."""


class BadParams(SecAggError):
    """Bucket parameters that are not safe or would overflow the ring; the message names the field and its bounds."""


class BadInput(SecAggError):
    """A value of the wrong size, range or type, from the caller or from the network; nothing was changed by it."""


class BadRoster(SecAggError):
    """The roster is not sorted, not unique, of the wrong size, or does not hold this device."""


class OwnKeyAltered(SecAggError):
    """The roster lists other public keys for this device than its prekey has: somebody sits in between. Drop out."""


class BadPeerKey(SecAggError):
    """A member's public key is a point of low order, so no secret can be agreed with it.

    Args:
        index: the member's index in the roster.
        which: "mask" or "channel".
    """

    def __init__(self, index: int, which: str) -> None:
        super().__init__(f"the {which} key of member {index} has low order: no secret can be agreed; leave the bucket")
        self.index = index
        self.which = which


class BadShare(SecAggError):
    """What a member sealed for this device does not open, or is no share.

    `evidence` is the sealed text as it was delivered. The key is never given away with it: whoever altered the text on
    its way would learn both shares of an honest member by it.

    Args:
        index: the sender's index in the roster.
        evidence: the sealed text.
        detail: what was wrong with it.
    """

    def __init__(self, index: int, evidence: bytes, detail: str) -> None:
        super().__init__(f"the shares sealed by member {index} are refused: {detail}; leave the bucket")
        self.index = index
        self.evidence = evidence


class Equivocation(SecAggError):
    """The same question was asked twice with different sets. The first answer stands, no second one is given."""


class OutOfOrder(SecAggError):
    """A step was asked for before the step it builds on."""


class TooFewSurvivors(SecAggError):
    """Fewer members than the threshold are left, so nothing may or can be unmasked.

    Args:
        what: which set is too small.
        count: its size.
        threshold: what it takes.
    """

    def __init__(self, what: str, count: int, threshold: int) -> None:
        super().__init__(f"{what}: {count} members, the threshold is {threshold}")
        self.count = count
        self.threshold = threshold


class Unrecoverable(SecAggError):
    """No tried choice of `threshold` shares gives a member's secret: the bucket cannot be unmasked.

    Either that member dealt bad shares (or committed to another secret), or too many holders answered wrongly.

    Args:
        owner: the member whose secret it is.
        of_mask_key: whether it is the mask key's seed (dropped member) or the self mask (survivor).
        tries: how many choices of shares were tried.
    """

    def __init__(self, owner: int, *, of_mask_key: bool, tries: int) -> None:
        secret = "mask key" if of_mask_key else "self mask"
        super().__init__(f"the {secret} of member {owner} cannot be reconstructed after {tries} choices of shares")
        self.owner = owner
        self.of_mask_key = of_mask_key
        self.tries = tries


class AuditMismatch(SecAggError):
    """A published secret does not belong to the member it is published for; the message says which."""
