// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {IModelRegistry} from "../interfaces/IModelRegistry.sol";

/// @title EIP-712 struct hashes of the checkpoint chain
library CheckpointHash {
    bytes32 internal constant CHECKPOINT_TYPEHASH = keccak256(
        "Checkpoint(bytes32 jobId,uint64 round,bytes32 parent,bytes32 modelHash,bytes32 aggregateHash,bytes32 cohortRoot,bytes32 participationRoot,bytes32 metricsHash,uint64 participants,uint64 totalWeight)"
    );
    bytes32 internal constant GENESIS_TYPEHASH =
        keccak256("Genesis(bytes32 jobId,bytes32 specHash,bytes32 genesisModelHash)");

    /// @notice Struct hash of a checkpoint.
    function hash(IModelRegistry.Checkpoint calldata checkpoint) internal pure returns (bytes32) {
        return keccak256(abi.encode(CHECKPOINT_TYPEHASH, checkpoint));
    }

    /// @notice Struct hash that a job's chain starts from.
    function genesis(bytes32 jobId, bytes32 specHash, bytes32 genesisModelHash) internal pure returns (bytes32) {
        return keccak256(abi.encode(GENESIS_TYPEHASH, jobId, specHash, genesisModelHash));
    }
}
