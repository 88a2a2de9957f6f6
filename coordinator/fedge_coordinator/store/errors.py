"""The errors of the store: each names what was asked for, and what to do about it."""


class StoreError(Exception):
    """The family of everything `fedge_coordinator.store` raises."""


class StoreUnavailableError(StoreError):
    """The database or the blob folder cannot be opened or written. Check the path, its owner and the free space."""


class StoreLockedError(StoreError):
    """Another coordinator runs on this store. Stop it first: two of them would open different rounds of one job."""


class NotFoundError(StoreError):
    """Nothing of that name is stored."""


class RoundConflictError(StoreError):
    """A round attempt was opened twice with different plans, or an entry number was used twice."""


class RoundClosedError(StoreError):
    """The round attempt is finished or aborted; it takes no more entries."""


class ModelChangedError(StoreError):
    """A job that has started keeps its model, or its checkpoints would not continue one another.

    Give the new model another job name, or restore the old `spec.model`.
    """


class JobStateError(StoreError):
    """The job's status does not allow this."""


class PrekeyUnknownError(StoreError):
    """The device never published a prekey of that id."""


class PrekeyUsedError(StoreError):
    """The prekey is reserved for another round, or burned."""


class BlobCorruptError(StoreError):
    """The bytes on disk are not what their name says. Delete the file; it is fetched or made again."""


class BlobTooLargeError(StoreError):
    """The bytes exceed the size limit of the blob store."""
