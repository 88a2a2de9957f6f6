// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IRewardDistributor} from "../../src/interfaces/IRewardDistributor.sol";
import {BaseTest} from "../support/BaseTest.sol";
import {StandardTree} from "../support/StandardTree.sol";

contract CloseTest is BaseTest {
    using StandardTree for bytes32[];

    bytes32 private constant ROOT = keccak256("root");

    address private treasury = makeAddr("treasury");

    function setUp() public override {
        super.setUp();
        _fund(JOB, FUNDS);
    }

    function test_Close_StartsTheGrace() public {
        vm.expectEmit(address(rewards));
        emit IRewardDistributor.PoolClosed(JOB, uint64(START));
        vm.prank(sponsor);
        rewards.close(JOB);
        assertEq(rewards.pools(JOB).closedAt, START);
    }

    function test_Close_LetsTheCommitteeSettleTheLastEpoch() public {
        vm.prank(sponsor);
        rewards.close(JOB);
        skip(CLOSE_GRACE - 1);
        _propose(_reward(JOB, 1, ROOT, 700e18));
        skip(1);

        vm.expectEmit(address(rewards));
        emit IRewardDistributor.UnallocatedWithdrawn(JOB, treasury, FUNDS - 700e18);
        vm.prank(sponsor);
        rewards.withdrawUnallocated(JOB, treasury);

        assertEq(token.balanceOf(treasury), FUNDS - 700e18);
        assertEq(rewards.pools(JOB).funded, 700e18, "the pending root stays funded");
    }

    function test_Withdraw_LeavesPromisesClaimable() public {
        address[] memory accounts = _accounts("earner", 2);
        bytes32[] memory nodes = _settle(JOB, accounts, _amounts(2, 1));
        rewards.claim(JOB, accounts[0], 100e18, nodes.proof(0));
        _closeAndWithdraw();

        skip(3650 days);
        rewards.claim(JOB, accounts[1], 200e18, nodes.proof(1));

        assertEq(token.balanceOf(accounts[1]), 200e18);
        assertEq(token.balanceOf(address(rewards)), 0);
        assertEq(token.balanceOf(treasury), FUNDS - 300e18);
    }

    function test_Withdraw_AgainAfterADrop() public {
        vm.prank(sponsor);
        rewards.close(JOB);
        skip(CLOSE_GRACE - 1);
        _propose(_reward(JOB, 1, ROOT, 700e18));
        skip(1);
        vm.prank(sponsor);
        rewards.withdrawUnallocated(JOB, treasury);
        vm.prank(guardian);
        rewards.dropRoot(JOB, 1);

        vm.prank(sponsor);
        rewards.withdrawUnallocated(JOB, treasury);
        assertEq(token.balanceOf(treasury), FUNDS);
    }

    function test_Withdraw_APauseRestartsTheGrace() public {
        vm.prank(sponsor);
        rewards.close(JOB);
        skip(1 days);
        vm.prank(guardian);
        rewards.pause();
        skip(14 days);

        uint256 until = block.timestamp + CLOSE_GRACE;
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.GraceNotOver.selector, JOB, until));
        vm.prank(sponsor);
        rewards.withdrawUnallocated(JOB, treasury);

        _propose(_reward(JOB, 1, ROOT, 700e18));
        vm.warp(until);
        vm.prank(sponsor);
        rewards.withdrawUnallocated(JOB, treasury);
        assertEq(token.balanceOf(treasury), FUNDS - 700e18);
    }

    function test_RevertWhen_CloserIsNotTheJobOwner() public {
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.NotJobOwner.selector, JOB, sponsor, admin));
        vm.prank(admin);
        rewards.close(JOB);
    }

    function test_RevertWhen_ClosedTwice() public {
        vm.startPrank(sponsor);
        rewards.close(JOB);
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.PoolIsClosed.selector, JOB, START));
        rewards.close(JOB);
        vm.stopPrank();
    }

    function test_RevertWhen_JobHasNoPool() public {
        bytes32 other = keccak256("factory/other");
        vm.startPrank(sponsor);
        models.createJob(other, SPEC, GENESIS_MODEL);
        bytes memory unknown = abi.encodeWithSelector(IRewardDistributor.UnknownPool.selector, other);
        vm.expectRevert(unknown);
        rewards.close(other);
        vm.expectRevert(unknown);
        rewards.withdrawUnallocated(other, treasury);
        vm.stopPrank();
    }

    function test_RevertWhen_PoolIsOpen() public {
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.GraceNotOver.selector, JOB, type(uint64).max));
        vm.prank(sponsor);
        rewards.withdrawUnallocated(JOB, treasury);
    }

    function test_RevertWhen_GraceIsNotOver() public {
        vm.startPrank(sponsor);
        rewards.close(JOB);
        skip(CLOSE_GRACE - 1);
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.GraceNotOver.selector, JOB, START + CLOSE_GRACE));
        rewards.withdrawUnallocated(JOB, treasury);
        vm.stopPrank();
    }

    function test_RevertWhen_WithdrawerIsNotTheJobOwner() public {
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.NotJobOwner.selector, JOB, sponsor, guardian));
        vm.prank(guardian);
        rewards.withdrawUnallocated(JOB, guardian);
    }

    function test_RevertWhen_RecipientIsZero() public {
        vm.expectRevert(IRewardDistributor.ZeroField.selector);
        vm.prank(sponsor);
        rewards.withdrawUnallocated(JOB, address(0));
    }

    function test_RevertWhen_EverythingIsPromisedOrWithdrawn() public {
        _closeAndWithdraw();
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.NothingUnallocated.selector, JOB));
        vm.prank(sponsor);
        rewards.withdrawUnallocated(JOB, treasury);
    }

    function test_RevertWhen_Paused() public {
        vm.prank(guardian);
        rewards.pause();
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.PausedUntil.selector, START + 14 days));
        vm.prank(sponsor);
        rewards.withdrawUnallocated(JOB, treasury);
    }

    function _closeAndWithdraw() private {
        vm.startPrank(sponsor);
        rewards.close(JOB);
        skip(CLOSE_GRACE);
        rewards.withdrawUnallocated(JOB, treasury);
        vm.stopPrank();
    }
}
