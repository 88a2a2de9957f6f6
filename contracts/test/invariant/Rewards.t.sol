// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IRewardDistributor} from "../../src/interfaces/IRewardDistributor.sol";
import {BaseTest} from "../support/BaseTest.sol";
import {RewardHandler} from "./RewardHandler.sol";

contract RewardsInvariantTest is BaseTest {
    RewardHandler private handler;
    bytes32[2] private jobs = [JOB, keccak256("factory/other")];

    function setUp() public override {
        super.setUp();
        vm.startPrank(sponsor);
        models.createJob(jobs[1], SPEC, GENESIS_MODEL);
        rewards.createPool(jobs[1], token);
        vm.stopPrank();
        vm.prank(admin);
        committee.setCommittee(memberList, 1);
        handler = new RewardHandler(rewards, token, sponsor, guardian, keyOf[memberList[0]], jobs);
        token.transferOwnership(address(handler));
        targetContract(address(handler));
    }

    /// @dev One campaign for all properties: each would replay the same calls.
    function invariant_MoneyIsSafe() public view {
        _everyTokenIsAccountedFor();
        _claimedIsAtMostPromisedIsAtMostFunded();
        _accountsHoldExactlyWhatTheyClaimed();
        _claimedIsTheSumOfTheAccounts();
        assertEq(handler.breaches(), 0, "something forbidden worked");
    }

    /// @dev A run of refused calls would prove nothing.
    function afterInvariant() public view {
        assertGt(handler.successes() * 2, handler.attempts());
        assertGt(handler.claims(), 0);
    }

    function _everyTokenIsAccountedFor() private view {
        uint256 owed = handler.donated();
        for (uint256 j = 0; j < 2; ++j) {
            IRewardDistributor.Pool memory pool = rewards.pools(jobs[j]);
            owed += pool.funded - pool.claimed;
            assertEq(pool.funded, handler.expectedFunded(j));
        }
        assertEq(token.balanceOf(address(rewards)), owed);
    }

    function _claimedIsAtMostPromisedIsAtMostFunded() private view {
        for (uint256 j = 0; j < 2; ++j) {
            IRewardDistributor.Pool memory pool = rewards.pools(jobs[j]);
            assertLe(pool.claimed, pool.active.total);
            assertLe(pool.active.total, pool.funded);
            if (pool.pending.root != 0) {
                assertLe(pool.active.total, pool.pending.total);
                assertLe(pool.pending.total, pool.funded);
            }
        }
    }

    function _accountsHoldExactlyWhatTheyClaimed() private view {
        for (uint256 i = 0; i < handler.ACCOUNTS(); ++i) {
            address account = handler.accounts(i);
            uint256 held = 0;
            for (uint256 j = 0; j < 2; ++j) {
                uint256 claimed = rewards.claimedOf(jobs[j], account);
                assertEq(claimed, handler.paid(jobs[j], account));
                held += claimed;
            }
            assertEq(token.balanceOf(account), held);
        }
    }

    function _claimedIsTheSumOfTheAccounts() private view {
        for (uint256 j = 0; j < 2; ++j) {
            uint256 sum = 0;
            for (uint256 i = 0; i < handler.ACCOUNTS(); ++i) {
                sum += rewards.claimedOf(jobs[j], handler.accounts(i));
            }
            assertEq(rewards.pools(jobs[j]).claimed, sum);
        }
    }
}
