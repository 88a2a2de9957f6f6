// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {IRewardDistributor} from "../interfaces/IRewardDistributor.sol";

/// @title Hashes of reward roots, leaves and redirected claims
library RewardHash {
    bytes32 internal constant REWARD_ROOT_TYPEHASH =
        keccak256("RewardRoot(bytes32 jobId,uint64 epoch,bytes32 root,uint128 total,bytes32 dataHash)");
    bytes32 internal constant CLAIM_TO_TYPEHASH =
        keccak256("ClaimTo(bytes32 jobId,address account,address recipient,uint256 cumulative,uint64 notAfter)");

    /// @notice Struct hash of a reward root.
    function root(IRewardDistributor.RewardRoot calldata reward) internal pure returns (bytes32) {
        return keccak256(abi.encode(REWARD_ROOT_TYPEHASH, reward));
    }

    /// @notice Struct hash of a claim that its recipient redirects.
    function claimTo(bytes32 jobId, address account, address recipient, uint256 cumulative, uint64 notAfter)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(CLAIM_TO_TYPEHASH, jobId, account, recipient, cumulative, notAfter));
    }

    /// @notice Leaf of an account. Hashed twice, so that no inner node of a tree can pose as a leaf.
    function leaf(bytes32 jobId, address account, uint256 cumulative) internal pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(jobId, account, cumulative))));
    }
}
