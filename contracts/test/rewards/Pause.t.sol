// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IRewardDistributor} from "../../src/interfaces/IRewardDistributor.sol";
import {BaseTest} from "../support/BaseTest.sol";

contract PauseTest is BaseTest {
    function test_Pause_ExpiresByItself() public {
        vm.expectEmit(address(rewards));
        emit IRewardDistributor.Paused(guardian, uint64(START + 14 days));
        vm.prank(guardian);
        rewards.pause();
        assertEq(rewards.pausedUntil(), START + 14 days);

        skip(14 days);
        rewards.claimMany(new IRewardDistributor.Claim[](0));
    }

    function test_Pause_LeavesFundingOpen() public {
        vm.prank(guardian);
        rewards.pause();
        _fund(JOB, 1);
        assertEq(rewards.pools(JOB).funded, 1);
    }

    function test_Pause_AgainOnlyAfterTheCooldown() public {
        vm.startPrank(guardian);
        rewards.pause();
        skip(14 days + 30 days - 1);
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.PauseCooldown.selector, START + 44 days));
        rewards.pause();
        skip(1);
        rewards.pause();
        vm.stopPrank();
        assertEq(rewards.pausedUntil(), START + 58 days);
    }

    function test_Pause_CannotBeProlongedWhileItRuns() public {
        vm.startPrank(guardian);
        rewards.pause();
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.PauseCooldown.selector, START + 44 days));
        rewards.pause();
        vm.stopPrank();
    }

    function test_Unpause_ByGuardianOrAdmin() public {
        address[2] memory callers = [guardian, admin];
        for (uint256 i = 0; i < 2; ++i) {
            skip(60 days);
            vm.prank(guardian);
            rewards.pause();
            skip(1 hours);

            vm.expectEmit(address(rewards));
            emit IRewardDistributor.Unpaused(callers[i]);
            vm.prank(callers[i]);
            rewards.unpause();

            assertEq(rewards.pausedUntil(), block.timestamp);
            rewards.claimMany(new IRewardDistributor.Claim[](0));
        }
    }

    function test_RevertWhen_PauserIsNoGuardian() public {
        _expectMissingRole(admin, rewards.GUARDIAN_ROLE());
        vm.prank(admin);
        rewards.pause();
    }

    function test_RevertWhen_UnpauserHasNoRole() public {
        vm.prank(guardian);
        rewards.pause();
        _expectMissingRole(sponsor, rewards.DEFAULT_ADMIN_ROLE());
        vm.prank(sponsor);
        rewards.unpause();
    }

    function test_RevertWhen_NotPaused() public {
        vm.expectRevert(IRewardDistributor.NotPaused.selector);
        vm.prank(guardian);
        rewards.unpause();
    }
}
