// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {
    AccessControlDefaultAdminRules
} from "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {IAggregatorCommittee} from "./interfaces/IAggregatorCommittee.sol";
import {IModelRegistry} from "./interfaces/IModelRegistry.sol";
import {CheckpointHash} from "./libraries/CheckpointHash.sol";

/// @title ModelRegistry
/// @notice See {IModelRegistry}. A round costs two storage writes and one event, whatever the size of the fleet.
contract ModelRegistry is IModelRegistry, AccessControlDefaultAdminRules, EIP712 {
    // -------------------------------------------------------------------------------------------------- types

    /// @dev Three slots: (owner, round, createdAt), head, specHash. `publish` writes the first two.
    struct Job {
        address owner;
        uint64 round;
        uint32 createdAt;
        bytes32 head;
        bytes32 specHash;
    }

    // --------------------------------------------------------------------------------- constants, immutables

    /// @inheritdoc IModelRegistry
    bytes32 public constant JOB_CREATOR_ROLE = keccak256("JOB_CREATOR_ROLE");

    /// @notice Who attests checkpoints.
    IAggregatorCommittee public immutable COMMITTEE;

    // ------------------------------------------------------------------------------------------------ storage

    /// @inheritdoc IModelRegistry
    mapping(bytes32 jobId => Job job) public jobs;

    // -------------------------------------------------------------------------------------------- constructor

    /// @param adminDelay Seconds between the announcement and the take-over of a new admin.
    /// @param admin First admin.
    /// @param committee Who attests checkpoints, for ever.
    constructor(uint48 adminDelay, address admin, IAggregatorCommittee committee)
        AccessControlDefaultAdminRules(adminDelay, admin)
        EIP712("Fedge", "1")
    {
        COMMITTEE = committee;
    }

    // ----------------------------------------------------------------------------------------------- mutating

    /// @inheritdoc IModelRegistry
    function createJob(bytes32 jobId, bytes32 specHash, bytes32 genesisModelHash) external onlyRole(JOB_CREATOR_ROLE) {
        // CHECK: a new job, every hash given.
        if (jobId == 0 || specHash == 0 || genesisModelHash == 0) revert ZeroField();
        address owner = jobs[jobId].owner;
        if (owner != address(0)) revert JobExists(jobId, owner);

        // EFFECT: the chain starts at the genesis hash.
        jobs[jobId] = Job({
            owner: msg.sender,
            round: 0,
            createdAt: SafeCast.toUint32(block.timestamp),
            head: CheckpointHash.genesis(jobId, specHash, genesisModelHash),
            specHash: specHash
        });
        emit JobCreated(jobId, msg.sender, specHash, genesisModelHash);
    }

    /// @inheritdoc IModelRegistry
    function publish(Checkpoint calldata checkpoint, bytes[] calldata signatures) external {
        // CHECK: the checkpoint continues the chain, and the committee attests it.
        Job storage job = jobs[checkpoint.jobId];
        if (job.owner == address(0)) revert UnknownJob(checkpoint.jobId);
        uint64 expected = job.round + 1;
        if (checkpoint.round != expected) revert RoundOutOfOrder(checkpoint.jobId, expected, checkpoint.round);
        bytes32 head = job.head;
        if (checkpoint.parent != head) revert ParentMismatch(checkpoint.jobId, head, checkpoint.parent);
        if (checkpoint.modelHash == 0 || checkpoint.participants == 0 || checkpoint.totalWeight == 0) {
            revert ZeroField();
        }
        bytes32 newHead = CheckpointHash.hash(checkpoint);
        COMMITTEE.verify(_hashTypedDataV4(newHead), signatures);

        // EFFECT: one round further.
        job.round = checkpoint.round;
        job.head = newHead;
        emit CheckpointPublished(checkpoint.jobId, checkpoint.round, checkpoint.modelHash, newHead, checkpoint);
    }

    // --------------------------------------------------------------------------------------------------- view

    /// @inheritdoc IModelRegistry
    function checkpointDigest(Checkpoint calldata checkpoint) external view returns (bytes32) {
        return _hashTypedDataV4(CheckpointHash.hash(checkpoint));
    }

    /// @inheritdoc IModelRegistry
    function checkpointHash(Checkpoint calldata checkpoint) external pure returns (bytes32) {
        return CheckpointHash.hash(checkpoint);
    }

    /// @inheritdoc IModelRegistry
    function genesisHash(bytes32 jobId, bytes32 specHash, bytes32 genesisModelHash) external pure returns (bytes32) {
        return CheckpointHash.genesis(jobId, specHash, genesisModelHash);
    }
}
