// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

/// @title The k-of-n committee that attests checkpoints and reward roots
/// @notice Members sign EIP-712 digests off-chain; any account may carry the signatures to the chain.
interface IAggregatorCommittee {
    /// @notice The committee was replaced as a whole.
    /// @param members Strictly ascending addresses.
    /// @param threshold Number of members whose signatures make an attestation.
    event CommitteeChanged(address[] members, uint256 threshold);

    /// @notice Fewer signatures than the threshold.
    error NotEnoughSignatures(uint256 given, uint256 threshold);

    /// @notice A signature entry is shorter than the signer's 20 bytes.
    error SignatureTooShort(uint256 index, uint256 length);

    /// @notice Signers (or members) must be in strictly ascending order, which also forbids duplicates and zero.
    error NotAscending(address previous, address next);

    /// @notice The signer is no member of the committee.
    error NotMember(address signer);

    /// @notice The signature is not the signer's over this digest.
    error InvalidSignature(address signer);

    /// @notice The threshold must be at least 1 and at most the number of members.
    error InvalidThreshold(uint256 threshold, uint256 members);

    /// @notice More members than `MAX_MEMBERS`.
    error TooManyMembers(uint256 members, uint256 limit);

    /// @notice Replaces members and threshold. Only the admin.
    /// @param newMembers Strictly ascending, none zero; externally owned accounts or ERC-1271 contracts.
    /// @param newThreshold Between 1 and the number of members.
    function setCommittee(address[] calldata newMembers, uint256 newThreshold) external;

    /// @notice Reverts unless at least `threshold()` members signed `digest`, and every given signature is good.
    /// @param digest EIP-712 digest of the attested structure.
    /// @param signatures One entry a signer, ascending by signer: `signer (20 bytes) || signature`, where the
    /// signature is 65 bytes (r, s, v) for an externally owned account and whatever ERC-1271 takes for a contract.
    function verify(bytes32 digest, bytes[] calldata signatures) external view;

    /// @notice Number of members that must sign.
    function threshold() external view returns (uint256);

    /// @notice All members, ascending.
    function members() external view returns (address[] memory);

    /// @notice Whether `account` is a member.
    function isMember(address account) external view returns (bool);

    /// @notice Upper bound of the committee's size.
    function MAX_MEMBERS() external view returns (uint256);
}
