"""What the owner of the device agreed to. A job may be stricter than the owner, never laxer."""

from dataclasses import dataclass

from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import Offer
from fedge_protocol.secagg.params import SECURE_FLOOR


@dataclass(frozen=True)
class Consent:
    """The owner's limits, from `agent.toml`.

    Attributes:
        sources: names of data sources a job may ask for; a job never names a path.
        allow_small_cohort: whether a cohort below `minimum_cohort` is acceptable at all.
        minimum_cohort: fewest devices whose sum may be revealed.
        max_epochs: most local epochs a round.
        max_dim: most parameters of a model.
    """

    sources: frozenset[str]
    allow_small_cohort: bool = False
    minimum_cohort: int = SECURE_FLOOR
    max_epochs: int = 100
    max_dim: int = 2_000_000

    def check(self, offer: Offer) -> None:
        """Refuse an offer that goes beyond what the owner agreed to.

        Raises:
            RefusedError: `no-such-source`, `cohort-too-small` or `unsupported`.
        """
        if offer.training.source not in self.sources:
            raise RefusedError(Reason.NO_SUCH_SOURCE, f"data source {offer.training.source!r} is not configured here")
        if offer.training.epochs > self.max_epochs:
            raise RefusedError(
                Reason.UNSUPPORTED, f"{offer.training.epochs} epochs, the owner allows {self.max_epochs}"
            )
        if offer.dim > self.max_dim:
            raise RefusedError(Reason.UNSUPPORTED, f"{offer.dim} parameters, the owner allows {self.max_dim}")
        if self.allow_small_cohort:
            return
        if offer.cohort.allow_small or offer.cohort.minimum < self.minimum_cohort:
            raise RefusedError(
                Reason.COHORT_TOO_SMALL,
                f"the job accepts {offer.cohort.minimum} devices, the owner asks for {self.minimum_cohort}",
            )

    def check_sum(self, size: int) -> None:
        """Refuse a sum of `size` updates, in which this device would hide among too few.

        Raises:
            RefusedError: `cohort-too-small`.
        """
        if not self.allow_small_cohort and size < self.minimum_cohort:
            raise RefusedError(Reason.COHORT_TOO_SMALL, f"a sum of {size}, the owner asks for {self.minimum_cohort}")
