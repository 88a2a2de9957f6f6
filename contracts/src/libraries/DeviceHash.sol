// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {IDeviceRegistry} from "../interfaces/IDeviceRegistry.sol";

/// @title EIP-712 struct hashes of what a device's chain key signs
library DeviceHash {
    bytes32 internal constant BINDING_TYPEHASH =
        keccak256("DeviceBinding(bytes32 deviceId,address device,address payout,bytes32 nonce,uint64 notAfter)");
    bytes32 internal constant RECEIPT_TYPEHASH =
        keccak256("Receipt(bytes32 jobId,uint64 round,uint32 attempt,bytes32 bucketRoot,bytes32 updateHash)");
    bytes32 internal constant PAYOUT_CHANGE_TYPEHASH =
        keccak256("PayoutChange(address device,address payout,uint64 nonce,uint64 notAfter)");

    /// @notice Struct hash of a device's consent to its registration.
    function binding(IDeviceRegistry.DeviceBinding calldata value) internal pure returns (bytes32) {
        return keccak256(abi.encode(BINDING_TYPEHASH, value));
    }

    /// @notice Struct hash of a device's receipt for an update.
    function receipt(IDeviceRegistry.Receipt calldata value) internal pure returns (bytes32) {
        return keccak256(abi.encode(RECEIPT_TYPEHASH, value));
    }

    /// @notice Struct hash of a device's wish to be paid elsewhere.
    function payoutChange(address device, address payout, uint64 nonce, uint64 notAfter)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(PAYOUT_CHANGE_TYPEHASH, device, payout, nonce, notAfter));
    }
}
