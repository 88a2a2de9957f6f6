// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IRewardDistributor} from "../../src/interfaces/IRewardDistributor.sol";
import {BaseTest} from "../support/BaseTest.sol";
import {SmartWallet} from "../support/SmartWallet.sol";
import {StandardTree} from "../support/StandardTree.sol";

contract ClaimToTest is BaseTest {
    using StandardTree for bytes32[];

    address private earner;
    uint256 private earnerKey;
    address private target = makeAddr("target");
    address[] private accounts;
    bytes32[] private nodes;

    function setUp() public override {
        super.setUp();
        _fund(JOB, FUNDS);
        accounts = _accounts("earner", 3);
        (earner, earnerKey) = makeAddrAndKey("signing earner");
        accounts[0] = earner;
        nodes = _settle(JOB, accounts, _amounts(3, 1));
    }

    function test_ClaimTo_PaysTheChosenRecipient() public {
        bytes memory signature = _claimSignature(earnerKey, earner, target, 100e18, _now());

        vm.expectEmit(address(rewards));
        emit IRewardDistributor.Claimed(JOB, earner, target, 100e18, 100e18);
        vm.prank(relayer);
        rewards.claimTo(JOB, earner, target, 100e18, nodes.proof(0), _now(), signature);

        assertEq(token.balanceOf(target), 100e18);
        assertEq(token.balanceOf(earner), 0);
    }

    function test_ClaimTo_IsSignedByADevicesPayoutAccount() public {
        address device = _register("pump", earner);
        accounts[1] = device;
        nodes = _settle(JOB, accounts, _amounts(3, 1));
        bytes memory signature = _claimSignature(earnerKey, device, target, 200e18, _now());
        rewards.claimTo(JOB, device, target, 200e18, nodes.proof(1), _now(), signature);
        assertEq(token.balanceOf(target), 200e18);
    }

    function test_ClaimTo_AcceptsErc1271() public {
        accounts[2] = address(new SmartWallet(earner));
        nodes = _settle(JOB, accounts, _amounts(3, 1));
        bytes memory signature = _claimSignature(earnerKey, accounts[2], target, 300e18, _now());
        rewards.claimTo(JOB, accounts[2], target, 300e18, nodes.proof(2), _now(), signature);
        assertEq(token.balanceOf(target), 300e18);
    }

    function test_RevertWhen_TheDeviceItselfSigns() public {
        address device = _register("pump", earner);
        (, uint256 deviceKey) = makeAddrAndKey("pump");
        accounts[1] = device;
        nodes = _settle(JOB, accounts, _amounts(3, 1));
        bytes memory signature = _claimSignature(deviceKey, device, target, 200e18, _now());
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.InvalidRecipientSignature.selector, earner));
        rewards.claimTo(JOB, device, target, 200e18, nodes.proof(1), _now(), signature);
    }

    function testFuzz_RevertWhen_RecipientIsAnother(address recipient) public {
        vm.assume(recipient != target && recipient != address(0));
        bytes memory signature = _claimSignature(earnerKey, earner, target, 100e18, _now());
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.InvalidRecipientSignature.selector, earner));
        rewards.claimTo(JOB, earner, recipient, 100e18, nodes.proof(0), _now(), signature);
    }

    function test_RevertWhen_SignatureIsTooOld() public {
        uint64 notAfter = _now();
        bytes memory signature = _claimSignature(earnerKey, earner, target, 100e18, notAfter);
        skip(1);
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.SignatureExpired.selector, notAfter));
        rewards.claimTo(JOB, earner, target, 100e18, nodes.proof(0), notAfter, signature);
    }

    function test_RevertWhen_SignatureIsReplayed() public {
        bytes memory signature = _claimSignature(earnerKey, earner, target, 100e18, _now());
        rewards.claimTo(JOB, earner, target, 100e18, nodes.proof(0), _now(), signature);
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.NothingToClaim.selector, JOB, earner, 100e18, 100e18));
        rewards.claimTo(JOB, earner, target, 100e18, nodes.proof(0), _now(), signature);
    }

    function test_RevertWhen_RecipientIsZero() public {
        bytes memory signature = _claimSignature(earnerKey, earner, address(0), 100e18, _now());
        vm.expectRevert(IRewardDistributor.ZeroField.selector);
        rewards.claimTo(JOB, earner, address(0), 100e18, nodes.proof(0), _now(), signature);
    }

    function test_RevertWhen_SignedAmountIsNotInTheTree() public {
        bytes memory signature = _claimSignature(earnerKey, earner, target, 101e18, _now());
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.InvalidProof.selector, JOB, earner, 101e18));
        rewards.claimTo(JOB, earner, target, 101e18, nodes.proof(0), _now(), signature);
    }

    function test_RevertWhen_Paused() public {
        bytes memory signature = _claimSignature(earnerKey, earner, target, 100e18, _now());
        vm.prank(guardian);
        rewards.pause();
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.PausedUntil.selector, _now() + 14 days));
        rewards.claimTo(JOB, earner, target, 100e18, nodes.proof(0), _now(), signature);
    }

    function _now() private view returns (uint64) {
        return uint64(block.timestamp);
    }

    function _claimSignature(uint256 key, address account, address recipient, uint256 cumulative, uint64 notAfter)
        private
        view
        returns (bytes memory)
    {
        bytes32 typehash =
            keccak256("ClaimTo(bytes32 jobId,address account,address recipient,uint256 cumulative,uint64 notAfter)");
        bytes32 structHash = keccak256(abi.encode(typehash, JOB, account, recipient, cumulative, notAfter));
        return _signature(key, _digest(address(rewards), structHash));
    }
}
