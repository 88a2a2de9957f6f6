// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

/// @title The append-only checkpoint chain of each job
/// @notice A job starts at a genesis hash that binds its specification and its first model. Each checkpoint names the
/// hash of the one before it, carries the committee's signatures, and its own hash becomes the job's head.
interface IModelRegistry {
    /// @notice EIP-712 structure: what one round made.
    /// @param jobId keccak256 of "fleet/job".
    /// @param round Exactly one more than the job's last published round; the first is 1.
    /// @param parent Head of the job before this checkpoint.
    /// @param modelHash SHA-256 of the model's weights after the round.
    /// @param aggregateHash SHA-256 of the aggregate that was applied.
    /// @param cohortRoot Merkle root of the devices that were asked.
    /// @param participationRoot Merkle root of (device, weight, updateHash), sorted by device.
    /// @param metricsHash SHA-256 of the round's metrics document.
    /// @param participants Number of updates in the aggregate.
    /// @param totalWeight Sum of the weights in the aggregate.
    struct Checkpoint {
        bytes32 jobId;
        uint64 round;
        bytes32 parent;
        bytes32 modelHash;
        bytes32 aggregateHash;
        bytes32 cohortRoot;
        bytes32 participationRoot;
        bytes32 metricsHash;
        uint64 participants;
        uint64 totalWeight;
    }

    /// @notice A job was created; its head is `genesisHash(jobId, specHash, genesisModelHash)`.
    event JobCreated(bytes32 indexed jobId, address indexed owner, bytes32 specHash, bytes32 genesisModelHash);

    /// @notice A checkpoint was appended.
    /// @param head EIP-712 struct hash of `checkpoint`, parent of the next one.
    event CheckpointPublished(
        bytes32 indexed jobId, uint64 indexed round, bytes32 indexed modelHash, bytes32 head, Checkpoint checkpoint
    );

    /// @notice The job exists already.
    error JobExists(bytes32 jobId, address owner);

    /// @notice No such job.
    error UnknownJob(bytes32 jobId);

    /// @notice `jobId`, `specHash`, `modelHash`, `participants` and `totalWeight` must not be zero.
    error ZeroField();

    /// @notice Rounds follow one another without gaps.
    error RoundOutOfOrder(bytes32 jobId, uint64 expected, uint64 given);

    /// @notice The checkpoint does not continue the job's head.
    error ParentMismatch(bytes32 jobId, bytes32 head, bytes32 given);

    /// @notice Creates a job owned by the caller. Only `JOB_CREATOR_ROLE`, so that nobody takes a job's name first.
    /// @param jobId keccak256 of "fleet/job".
    /// @param specHash SHA-256 of the job's specification.
    /// @param genesisModelHash SHA-256 of the weights that round 1 starts from.
    function createJob(bytes32 jobId, bytes32 specHash, bytes32 genesisModelHash) external;

    /// @notice Appends a checkpoint. Anyone may carry it; the committee's signatures authorise it.
    /// @param checkpoint What the round made.
    /// @param signatures Entries as in `IAggregatorCommittee.verify`, over `checkpointDigest(checkpoint)`.
    function publish(Checkpoint calldata checkpoint, bytes[] calldata signatures) external;

    /// @notice State of a job; `owner` is zero for an unknown one.
    /// @return owner Who may open and close the job's reward pool.
    /// @return round Last published round, 0 before the first.
    /// @return createdAt Second of the creation.
    /// @return head Parent that the next checkpoint must name.
    /// @return specHash SHA-256 of the job's specification.
    function jobs(bytes32 jobId)
        external
        view
        returns (address owner, uint64 round, uint32 createdAt, bytes32 head, bytes32 specHash);

    /// @notice EIP-712 struct hash of a checkpoint: the head it leaves behind.
    function checkpointHash(Checkpoint calldata checkpoint) external pure returns (bytes32);

    /// @notice EIP-712 digest that the committee signs.
    function checkpointDigest(Checkpoint calldata checkpoint) external view returns (bytes32);

    /// @notice First head of a job: EIP-712 struct hash of
    /// `Genesis(bytes32 jobId,bytes32 specHash,bytes32 genesisModelHash)`.
    function genesisHash(bytes32 jobId, bytes32 specHash, bytes32 genesisModelHash) external pure returns (bytes32);

    /// @notice Role that may create jobs.
    function JOB_CREATOR_ROLE() external view returns (bytes32);
}
