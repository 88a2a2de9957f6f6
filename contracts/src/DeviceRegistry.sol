// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {
    AccessControlDefaultAdminRules
} from "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {IDeviceRegistry} from "./interfaces/IDeviceRegistry.sol";
import {DeviceHash} from "./libraries/DeviceHash.sol";

/// @title DeviceRegistry
/// @notice See {IDeviceRegistry}. Registrars decide who belongs to the fleet; they cannot touch a payout account.
contract DeviceRegistry is IDeviceRegistry, AccessControlDefaultAdminRules, EIP712 {
    // -------------------------------------------------------------------------------------------------- types

    /// @dev Three slots: deviceId, (payout, registeredAt, status), (pendingPayout, pendingAt, payoutNonce).
    struct Entry {
        bytes32 deviceId;
        address payout;
        uint64 registeredAt;
        Status status;
        address pendingPayout;
        uint64 pendingAt;
        uint32 payoutNonce;
    }

    // --------------------------------------------------------------------------------- constants, immutables

    /// @inheritdoc IDeviceRegistry
    bytes32 public constant REGISTRAR_ROLE = keccak256("REGISTRAR_ROLE");

    /// @notice Longest payout delay that can be deployed.
    uint64 public constant MAX_PAYOUT_DELAY = 30 days;

    /// @inheritdoc IDeviceRegistry
    uint64 public immutable PAYOUT_DELAY;

    // ------------------------------------------------------------------------------------------------ storage

    /// @inheritdoc IDeviceRegistry
    mapping(bytes32 deviceId => address device) public deviceOf;

    mapping(address device => Entry entry) private _entries;

    // -------------------------------------------------------------------------------------------- constructor

    /// @param adminDelay Seconds between the announcement and the take-over of a new admin.
    /// @param admin First admin.
    /// @param payoutDelay Seconds between the announcement and the effect of a payout change.
    constructor(uint48 adminDelay, address admin, uint64 payoutDelay)
        AccessControlDefaultAdminRules(adminDelay, admin)
        EIP712("Fedge", "1")
    {
        if (payoutDelay > MAX_PAYOUT_DELAY) {
            revert PayoutDelayTooLong(payoutDelay, MAX_PAYOUT_DELAY);
        }
        PAYOUT_DELAY = payoutDelay;
    }

    // ----------------------------------------------------------------------------------------------- mutating

    /// @inheritdoc IDeviceRegistry
    function register(DeviceBinding calldata binding, bytes calldata signature) external onlyRole(REGISTRAR_ROLE) {
        _register(binding, signature);
    }

    /// @inheritdoc IDeviceRegistry
    function registerMany(DeviceBinding[] calldata bindings, bytes[] calldata signatures)
        external
        onlyRole(REGISTRAR_ROLE)
    {
        if (bindings.length != signatures.length) revert LengthMismatch(bindings.length, signatures.length);
        for (uint256 i = 0; i < bindings.length; ++i) {
            _register(bindings[i], signatures[i]);
        }
    }

    /// @inheritdoc IDeviceRegistry
    function revoke(address device, bytes32 reason) external onlyRole(REGISTRAR_ROLE) {
        Entry storage entry = _entries[device];
        if (entry.status != Status.Active) revert DeviceNotActive(device, entry.status);

        entry.status = Status.Revoked;
        emit DeviceRevoked(device, entry.deviceId, reason);
    }

    /// @inheritdoc IDeviceRegistry
    function proposePayout(address device, address payout) external {
        Entry storage entry = _requirePayoutAuthority(device);
        _proposePayout(entry, device, payout);
    }

    /// @inheritdoc IDeviceRegistry
    function proposePayoutBySignature(address device, address payout, uint64 notAfter, bytes calldata signature)
        external
    {
        // CHECK: an active device asks for it now.
        Entry storage entry = _entries[device];
        if (entry.status != Status.Active) revert DeviceNotActive(device, entry.status);
        if (block.timestamp > notAfter) revert SignatureExpired(notAfter);
        bytes32 structHash = DeviceHash.payoutChange(device, payout, entry.payoutNonce, notAfter);
        _requireSignature(device, structHash, signature);

        // EFFECT: the signature is used up.
        ++entry.payoutNonce;
        _proposePayout(entry, device, payout);
    }

    /// @inheritdoc IDeviceRegistry
    function cancelPayout(address device) external {
        Entry storage entry = _requirePayoutAuthority(device);
        address pending = entry.pendingPayout;
        if (pending == address(0) || block.timestamp >= entry.pendingAt) revert NoPendingPayout(device);

        entry.pendingPayout = address(0);
        entry.pendingAt = 0;
        emit PayoutCancelled(device, pending);
    }

    // --------------------------------------------------------------------------------------------------- view

    /// @inheritdoc IDeviceRegistry
    function devices(address device) external view returns (Device memory) {
        Entry storage entry = _entries[device];
        bool waiting = block.timestamp < entry.pendingAt;
        return Device({
            deviceId: entry.deviceId,
            status: entry.status,
            registeredAt: entry.registeredAt,
            payout: _payout(entry),
            pendingPayout: waiting ? entry.pendingPayout : address(0),
            pendingAt: waiting ? entry.pendingAt : 0,
            payoutNonce: entry.payoutNonce
        });
    }

    /// @inheritdoc IDeviceRegistry
    function status(address device) external view returns (Status) {
        return _entries[device].status;
    }

    /// @inheritdoc IDeviceRegistry
    function recipientOf(address account) external view returns (address) {
        address payout = _payout(_entries[account]);
        return payout == address(0) ? account : payout;
    }

    /// @inheritdoc IDeviceRegistry
    function bindingDigest(DeviceBinding calldata binding) external view returns (bytes32) {
        return _hashTypedDataV4(DeviceHash.binding(binding));
    }

    /// @inheritdoc IDeviceRegistry
    function receiptDigest(Receipt calldata receipt) external view returns (bytes32) {
        return _hashTypedDataV4(DeviceHash.receipt(receipt));
    }

    // ------------------------------------------------------------------------------------------------ private

    function _register(DeviceBinding calldata binding, bytes calldata signature) private {
        // CHECK: a new device that consents now, with an identity that no active device has.
        address device = binding.device;
        if (binding.deviceId == 0 || device == address(0) || binding.payout == address(0)) revert ZeroField();
        if (block.timestamp > binding.notAfter) revert SignatureExpired(binding.notAfter);
        Entry storage entry = _entries[device];
        if (entry.status != Status.None) revert DeviceKnown(device);
        address bound = deviceOf[binding.deviceId];
        if (_entries[bound].status == Status.Active) revert DeviceIdBound(binding.deviceId, bound);
        _requireSignature(device, DeviceHash.binding(binding), signature);

        // EFFECT
        entry.deviceId = binding.deviceId;
        entry.payout = binding.payout;
        entry.registeredAt = SafeCast.toUint64(block.timestamp);
        entry.status = Status.Active;
        deviceOf[binding.deviceId] = device;
        emit DeviceRegistered(device, binding.deviceId, binding.payout, msg.sender, binding.nonce);
    }

    function _proposePayout(Entry storage entry, address device, address payout) private {
        if (payout == address(0)) revert ZeroField();
        // A matured announcement must not be lost when the next one takes its place.
        address current = _payout(entry);
        if (current != entry.payout) entry.payout = current;

        uint64 activeAt = SafeCast.toUint64(block.timestamp) + PAYOUT_DELAY;
        entry.pendingPayout = payout;
        entry.pendingAt = activeAt;
        emit PayoutProposed(device, payout, activeAt);
    }

    function _requirePayoutAuthority(address device) private view returns (Entry storage entry) {
        entry = _entries[device];
        bool isActiveDevice = msg.sender == device && entry.status == Status.Active;
        if (!isActiveDevice && msg.sender != _payout(entry)) revert NotPayoutAuthority(msg.sender, device);
    }

    function _requireSignature(address device, bytes32 structHash, bytes calldata signature) private view {
        if (!SignatureChecker.isValidSignatureNowCalldata(device, _hashTypedDataV4(structHash), signature)) {
            revert InvalidDeviceSignature(device);
        }
    }

    function _payout(Entry storage entry) private view returns (address) {
        address pending = entry.pendingPayout;
        return pending != address(0) && block.timestamp >= entry.pendingAt ? pending : entry.payout;
    }
}
