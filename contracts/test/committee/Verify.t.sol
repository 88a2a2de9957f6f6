// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IAggregatorCommittee} from "../../src/interfaces/IAggregatorCommittee.sol";
import {BaseTest} from "../support/BaseTest.sol";
import {SmartWallet} from "../support/SmartWallet.sol";

contract VerifyTest is BaseTest {
    uint256 private constant CURVE_ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;
    bytes32 private constant DIGEST = keccak256("digest");

    function test_Verify_AcceptsThreshold() public view {
        committee.verify(DIGEST, _attest(DIGEST, THRESHOLD));
    }

    function test_Verify_AcceptsAllMembers() public view {
        committee.verify(DIGEST, _attest(DIGEST, 5));
    }

    function testFuzz_Verify_AcceptsAnySubsetOfThresholdOrMore(bytes32 digest, uint8 mask) public {
        bytes[] memory all = _attest(digest, 5);
        uint256 count = 0;
        for (uint256 i = 0; i < 5; ++i) {
            if ((mask >> i) & 1 == 1) ++count;
        }
        bytes[] memory chosen = new bytes[](count);
        uint256 taken = 0;
        for (uint256 i = 0; i < 5; ++i) {
            if ((mask >> i) & 1 == 1) chosen[taken++] = all[i];
        }

        if (count < THRESHOLD) {
            vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.NotEnoughSignatures.selector, count, THRESHOLD));
        }
        committee.verify(digest, chosen);
    }

    function test_Verify_AcceptsErc1271Member() public {
        (address key, uint256 secret) = makeAddrAndKey("wallet key");
        address[] memory one = new address[](1);
        one[0] = address(new SmartWallet(key));
        vm.prank(admin);
        committee.setCommittee(one, 1);

        bytes[] memory entries = new bytes[](1);
        entries[0] = abi.encodePacked(one[0], _signature(secret, DIGEST));
        committee.verify(DIGEST, entries);

        entries[0] = abi.encodePacked(one[0], _signature(secret, keccak256("another")));
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.InvalidSignature.selector, one[0]));
        committee.verify(DIGEST, entries);
    }

    function test_RevertWhen_SignaturesAreTooFew() public {
        bytes[] memory entries = _attest(DIGEST, 2);
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.NotEnoughSignatures.selector, 2, 3));
        committee.verify(DIGEST, entries);
    }

    function test_RevertWhen_ThereAreNoSignatures() public {
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.NotEnoughSignatures.selector, 0, 3));
        committee.verify(DIGEST, new bytes[](0));
    }

    function test_RevertWhen_SignerIsRepeated() public {
        bytes[] memory entries = _attest(DIGEST, 3);
        entries[2] = entries[1];
        vm.expectRevert(
            abi.encodeWithSelector(IAggregatorCommittee.NotAscending.selector, memberList[1], memberList[1])
        );
        committee.verify(DIGEST, entries);
    }

    function test_RevertWhen_SignersDescend() public {
        bytes[] memory entries = _attest(DIGEST, 3);
        (entries[0], entries[1]) = (entries[1], entries[0]);
        vm.expectRevert(
            abi.encodeWithSelector(IAggregatorCommittee.NotAscending.selector, memberList[1], memberList[0])
        );
        committee.verify(DIGEST, entries);
    }

    function test_RevertWhen_SignerIsZero() public {
        bytes[] memory entries = _attest(DIGEST, 3);
        entries[0] = abi.encodePacked(address(0), new bytes(65));
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.NotAscending.selector, address(0), address(0)));
        committee.verify(DIGEST, entries);
    }

    function test_RevertWhen_SignerIsNoMember() public {
        (address outsider, uint256 key) = makeAddrAndKey("outsider");
        bytes[] memory entries = _attest(DIGEST, 3);
        entries[0] = abi.encodePacked(outsider, _signature(key, DIGEST));
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.NotMember.selector, outsider));
        committee.verify(DIGEST, entries);
    }

    function test_RevertWhen_FormerMemberSigns() public {
        bytes[] memory entries = _attest(DIGEST, 3);
        address[] memory next = _newMembers("next", 3);
        vm.prank(admin);
        committee.setCommittee(next, 3);
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.NotMember.selector, memberList[0]));
        committee.verify(DIGEST, entries);
    }

    function test_RevertWhen_OneOfManySignaturesIsOfAnotherDigest() public {
        bytes[] memory entries = _attest(DIGEST, 5);
        entries[4] = _entry(memberList[4], keccak256("another"));
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.InvalidSignature.selector, memberList[4]));
        committee.verify(DIGEST, entries);
    }

    function test_RevertWhen_SignatureIsOfAnotherMember() public {
        bytes[] memory entries = _attest(DIGEST, 3);
        entries[2] = abi.encodePacked(memberList[2], _signature(keyOf[memberList[1]], DIGEST));
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.InvalidSignature.selector, memberList[2]));
        committee.verify(DIGEST, entries);
    }

    function test_RevertWhen_SignatureIsMalleated() public {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(keyOf[memberList[0]], DIGEST);
        bytes[] memory entries = _attest(DIGEST, 3);
        entries[0] = abi.encodePacked(memberList[0], r, bytes32(CURVE_ORDER - uint256(s)), v == 27 ? 28 : 27);
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.InvalidSignature.selector, memberList[0]));
        committee.verify(DIGEST, entries);
    }

    function test_RevertWhen_EntryIsShorterThanAnAddress() public {
        bytes[] memory entries = _attest(DIGEST, 3);
        entries[1] = new bytes(19);
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.SignatureTooShort.selector, 1, 19));
        committee.verify(DIGEST, entries);
    }

    function testFuzz_RevertWhen_SignatureIsRandom(bytes calldata garbage) public {
        bytes[] memory entries = _attest(DIGEST, 3);
        entries[0] = abi.encodePacked(memberList[0], garbage);
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.InvalidSignature.selector, memberList[0]));
        committee.verify(DIGEST, entries);
    }
}
