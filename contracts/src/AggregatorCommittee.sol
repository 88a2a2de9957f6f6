// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {
    AccessControlDefaultAdminRules
} from "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

import {IAggregatorCommittee} from "./interfaces/IAggregatorCommittee.sol";

/// @title AggregatorCommittee
/// @notice See {IAggregatorCommittee}. The admin (a timelock in production) alone decides who is a member.
contract AggregatorCommittee is IAggregatorCommittee, AccessControlDefaultAdminRules {
    // ---------------------------------------------------------------------------------------------- constants

    /// @inheritdoc IAggregatorCommittee
    uint256 public constant MAX_MEMBERS = 64;

    uint256 private constant SIGNER_LENGTH = 20;

    // ------------------------------------------------------------------------------------------------ storage

    /// @inheritdoc IAggregatorCommittee
    uint256 public threshold;

    address[] private _members;

    /// @dev The threshold once more for every member, zero for everybody else: `verify` then reads one slot a signer
    /// and no other, which saves 2,100 gas a round.
    mapping(address member => uint256 threshold) private _thresholdOf;

    // -------------------------------------------------------------------------------------------- constructor

    /// @param adminDelay Seconds between the announcement and the take-over of a new admin.
    /// @param admin First admin.
    /// @param initialMembers Strictly ascending addresses.
    /// @param initialThreshold Number of signatures needed.
    constructor(uint48 adminDelay, address admin, address[] memory initialMembers, uint256 initialThreshold)
        AccessControlDefaultAdminRules(adminDelay, admin)
    {
        _setCommittee(initialMembers, initialThreshold);
    }

    // ----------------------------------------------------------------------------------------------- mutating

    /// @inheritdoc IAggregatorCommittee
    function setCommittee(address[] calldata newMembers, uint256 newThreshold) external onlyRole(DEFAULT_ADMIN_ROLE) {
        _setCommittee(newMembers, newThreshold);
    }

    // --------------------------------------------------------------------------------------------------- view

    /// @inheritdoc IAggregatorCommittee
    function verify(bytes32 digest, bytes[] calldata signatures) external view {
        uint256 given = signatures.length;
        if (given == 0) revert NotEnoughSignatures(0, threshold);

        address previous = address(0);
        for (uint256 i = 0; i < given; ++i) {
            bytes calldata entry = signatures[i];
            if (entry.length < SIGNER_LENGTH) revert SignatureTooShort(i, entry.length);
            address signer = address(bytes20(entry[:SIGNER_LENGTH]));
            if (signer <= previous) revert NotAscending(previous, signer);
            uint256 needed = _thresholdOf[signer];
            if (needed == 0) revert NotMember(signer);
            if (given < needed) revert NotEnoughSignatures(given, needed);
            if (!_isSignature(signer, digest, entry[SIGNER_LENGTH:])) revert InvalidSignature(signer);
            previous = signer;
        }
    }

    /// @inheritdoc IAggregatorCommittee
    function members() external view returns (address[] memory) {
        return _members;
    }

    /// @inheritdoc IAggregatorCommittee
    function isMember(address account) external view returns (bool) {
        return _thresholdOf[account] != 0;
    }

    // ------------------------------------------------------------------------------------------------ private

    /// @dev Recovers before it asks for code: looking at a cold account costs 2,600 gas, and most members have none.
    function _isSignature(address signer, bytes32 digest, bytes calldata signature) private view returns (bool) {
        (address recovered,,) = ECDSA.tryRecoverCalldata(digest, signature);
        return recovered == signer || SignatureChecker.isValidERC1271SignatureNowCalldata(signer, digest, signature);
    }

    function _setCommittee(address[] memory newMembers, uint256 newThreshold) private {
        // CHECK: size and threshold; the order is checked while writing.
        if (newMembers.length > MAX_MEMBERS) revert TooManyMembers(newMembers.length, MAX_MEMBERS);
        if (newThreshold == 0 || newThreshold > newMembers.length) {
            revert InvalidThreshold(newThreshold, newMembers.length);
        }

        // EFFECT: the old members leave, the new ones enter.
        for (uint256 i = 0; i < _members.length; ++i) {
            delete _thresholdOf[_members[i]];
        }
        address previous = address(0);
        for (uint256 i = 0; i < newMembers.length; ++i) {
            address member = newMembers[i];
            if (member <= previous) revert NotAscending(previous, member);
            _thresholdOf[member] = newThreshold;
            previous = member;
        }
        _members = newMembers;
        threshold = newThreshold;
        emit CommitteeChanged(newMembers, newThreshold);
    }
}
