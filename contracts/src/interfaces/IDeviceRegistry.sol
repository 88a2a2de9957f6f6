// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

/// @title Which chain keys are devices of the fleet, and where their rewards go
/// @notice A device is known by the address of its secp256k1 chain key. Its identity (P-256, TLS) is `deviceId`, the
/// SHA-256 of the identity key's SPKI. The device itself signs the binding of both, off-chain and without gas.
interface IDeviceRegistry {
    /// @notice A device's life: a revoked address never becomes active again.
    enum Status {
        None,
        Active,
        Revoked
    }

    /// @notice EIP-712 structure by which a device's chain key consents to its registration.
    /// @param deviceId SHA-256 of the SPKI of the device's P-256 identity key.
    /// @param device Address of the device's chain key, the signer.
    /// @param payout Account that receives the device's rewards.
    /// @param nonce Challenge of the enrolment service; not interpreted on-chain (an address registers only once).
    /// @param notAfter Last second at which the binding may be registered.
    struct DeviceBinding {
        bytes32 deviceId;
        address device;
        address payout;
        bytes32 nonce;
        uint64 notAfter;
    }

    /// @notice EIP-712 structure that a device signs once for each update it sends.
    /// @param jobId keccak256 of "fleet/job".
    /// @param round Round of the job.
    /// @param attempt Attempt within the round.
    /// @param bucketRoot Merkle root of the bucket's members.
    /// @param updateHash SHA-256 of the bytes that the device sent.
    struct Receipt {
        bytes32 jobId;
        uint64 round;
        uint32 attempt;
        bytes32 bucketRoot;
        bytes32 updateHash;
    }

    /// @notice What the registry knows about a device.
    /// @param deviceId Identity key's hash.
    /// @param status Life stage.
    /// @param registeredAt Second of the registration.
    /// @param payout Account that is paid now (a matured change is already included).
    /// @param pendingPayout Account that will be paid from `pendingAt` on, or zero.
    /// @param pendingAt Second at which the change takes effect, or zero.
    /// @param payoutNonce Nonce that the next signed payout change must carry.
    struct Device {
        bytes32 deviceId;
        Status status;
        uint64 registeredAt;
        address payout;
        address pendingPayout;
        uint64 pendingAt;
        uint64 payoutNonce;
    }

    /// @notice A device joined.
    event DeviceRegistered(
        address indexed device, bytes32 indexed deviceId, address indexed payout, address registrar, bytes32 nonce
    );

    /// @notice A device was shut out. Rewards it has earned stay payable.
    event DeviceRevoked(address indexed device, bytes32 indexed deviceId, bytes32 reason);

    /// @notice A change of the payout account was announced.
    event PayoutProposed(address indexed device, address indexed payout, uint64 activeAt);

    /// @notice An announced change was withdrawn.
    event PayoutCancelled(address indexed device, address indexed payout);

    /// @notice The address is not registered, or revoked.
    error DeviceNotActive(address device, Status status);

    /// @notice The address was registered before (a revoked one stays revoked).
    error DeviceKnown(address device);

    /// @notice The identity is already bound to an active device: revoke that one first.
    error DeviceIdBound(bytes32 deviceId, address device);

    /// @notice `deviceId`, `device` and `payout` must not be zero.
    error ZeroField();

    /// @notice The signed statement is too old.
    error SignatureExpired(uint64 notAfter);

    /// @notice The signature is not the device's over this statement.
    error InvalidDeviceSignature(address device);

    /// @notice As many signatures as bindings are needed.
    error LengthMismatch(uint256 bindings, uint256 signatures);

    /// @notice The caller may not change this device's payout account.
    error NotPayoutAuthority(address caller, address device);

    /// @notice There is no announced change to withdraw.
    error NoPendingPayout(address device);

    /// @notice The payout delay exceeds its upper bound.
    error PayoutDelayTooLong(uint64 delay, uint64 limit);

    /// @notice Registers a device that consented. Only `REGISTRAR_ROLE`.
    /// @param binding What the device signed.
    /// @param signature The device's EIP-712 signature over `binding`.
    function register(DeviceBinding calldata binding, bytes calldata signature) external;

    /// @notice Registers several devices, all or none. Only `REGISTRAR_ROLE`.
    function registerMany(DeviceBinding[] calldata bindings, bytes[] calldata signatures) external;

    /// @notice Shuts a device out for good. Only `REGISTRAR_ROLE`.
    /// @param device Its address.
    /// @param reason Free code for indexers; not interpreted.
    function revoke(address device, bytes32 reason) external;

    /// @notice Announces a new payout account; it is paid after `PAYOUT_DELAY`, and replaces an earlier announcement.
    /// @dev Callers: the present payout account; the device while it is active. A stolen device key can be countered by
    /// the payout account within the delay, and loses every power once the device is revoked.
    function proposePayout(address device, address payout) external;

    /// @notice As `proposePayout`, carried by anyone with the active device's signature over
    /// `PayoutChange(address device,address payout,uint64 nonce,uint64 notAfter)`.
    /// @dev `nonce` is the device's `payoutNonce`.
    function proposePayoutBySignature(address device, address payout, uint64 notAfter, bytes calldata signature)
        external;

    /// @notice Withdraws an announced change. Callers as for `proposePayout`.
    function cancelPayout(address device) external;

    /// @notice Everything known about a device; all zero when it is unknown.
    function devices(address device) external view returns (Device memory);

    /// @notice The device that an identity is or was last bound to, or zero.
    function deviceOf(bytes32 deviceId) external view returns (address);

    /// @notice Life stage of a device.
    function status(address device) external view returns (Status);

    /// @notice Who is paid for `account`: a device's payout account (also after revocation), else `account` itself.
    function recipientOf(address account) external view returns (address);

    /// @notice EIP-712 digest that a device signs to consent to its registration.
    function bindingDigest(DeviceBinding calldata binding) external view returns (bytes32);

    /// @notice EIP-712 digest that a device signs for an update it sends.
    function receiptDigest(Receipt calldata receipt) external view returns (bytes32);

    /// @notice Seconds between the announcement of a payout change and its effect.
    function PAYOUT_DELAY() external view returns (uint64);

    /// @notice Role that registers and revokes devices.
    function REGISTRAR_ROLE() external view returns (bytes32);
}
