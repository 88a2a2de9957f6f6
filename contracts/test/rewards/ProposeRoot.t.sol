// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {RewardDistributor} from "../../src/RewardDistributor.sol";
import {IAggregatorCommittee} from "../../src/interfaces/IAggregatorCommittee.sol";
import {IRewardDistributor} from "../../src/interfaces/IRewardDistributor.sol";
import {BaseTest} from "../support/BaseTest.sol";

contract ProposeRootTest is BaseTest {
    bytes32 private constant ROOT = keccak256("root");

    function setUp() public override {
        super.setUp();
        _fund(JOB, FUNDS);
    }

    function test_ProposeRoot_WaitsForItsActivation() public {
        IRewardDistributor.RewardRoot memory reward = _reward(JOB, 1, ROOT, 500);
        bytes[] memory signatures = _attest(rewards.rewardRootDigest(reward), THRESHOLD);

        vm.expectEmit(address(rewards));
        emit IRewardDistributor.RootProposed(JOB, 1, ROOT, 500, reward.dataHash, uint64(START) + ACTIVATION_DELAY);
        vm.prank(stranger);
        rewards.proposeRoot(reward, signatures);

        IRewardDistributor.Pool memory pool = rewards.pools(JOB);
        assertEq(pool.active.root, 0);
        assertEq(pool.pending.root, ROOT);
        assertEq(pool.pending.total, 500);
        assertEq(pool.pending.epoch, 1);
        assertEq(pool.pending.activeAt, START + ACTIVATION_DELAY);

        skip(ACTIVATION_DELAY);
        pool = rewards.pools(JOB);
        assertEq(pool.active.root, ROOT);
        assertEq(pool.active.total, 500);
        assertEq(pool.active.epoch, 1);
        assertEq(pool.pending.root, 0);
        assertEq(pool.pending.total, 0);
        assertEq(pool.pending.epoch, 1, "the last used number stays");
    }

    function test_ProposeRoot_ActivatesTheRootBefore() public {
        _propose(_reward(JOB, 1, ROOT, 500));
        skip(ACTIVATION_DELAY);
        _propose(_reward(JOB, 2, keccak256("next"), 500));

        IRewardDistributor.Pool memory pool = rewards.pools(JOB);
        assertEq(pool.active.root, ROOT);
        assertEq(pool.pending.root, keccak256("next"));
        assertEq(pool.pending.epoch, 2);
    }

    function test_ProposeRoot_WithoutDelayIsActiveAtOnce() public {
        rewards = new RewardDistributor(ADMIN_DELAY, admin, committee, models, devices, 0, CLOSE_GRACE);
        vm.prank(sponsor);
        rewards.createPool(JOB, token);
        _fund(JOB, FUNDS);
        _propose(_reward(JOB, 1, ROOT, 500));
        assertEq(rewards.pools(JOB).active.root, ROOT);
        _propose(_reward(JOB, 2, keccak256("next"), 600));
        assertEq(rewards.pools(JOB).active.epoch, 2);
    }

    function testFuzz_ProposeRoot_TotalLiesBetweenThePreviousAndTheFunds(uint128 first, uint128 second) public {
        first = uint128(bound(first, 0, FUNDS));
        _propose(_reward(JOB, 1, ROOT, first));
        skip(ACTIVATION_DELAY);
        IRewardDistributor.RewardRoot memory reward = _reward(JOB, 2, keccak256("next"), second);
        if (second < first || second > FUNDS) {
            vm.expectRevert(
                abi.encodeWithSelector(IRewardDistributor.TotalOutOfRange.selector, JOB, first, second, FUNDS)
            );
        }
        this.attestAndPropose(reward);
    }

    function testFuzz_RevertWhen_EpochIsNotTheNext(uint64 epoch) public {
        vm.assume(epoch != 1);
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.EpochOutOfOrder.selector, JOB, 1, epoch));
        this.attestAndPropose(_reward(JOB, epoch, ROOT, 500));
    }

    function test_RevertWhen_ARootIsPending() public {
        _propose(_reward(JOB, 1, ROOT, 500));
        skip(ACTIVATION_DELAY - 1);
        vm.expectRevert(
            abi.encodeWithSelector(IRewardDistributor.RootPending.selector, JOB, 1, START + ACTIVATION_DELAY)
        );
        this.attestAndPropose(_reward(JOB, 2, keccak256("next"), 500));
    }

    function test_RevertWhen_RootIsZero() public {
        vm.expectRevert(IRewardDistributor.ZeroField.selector);
        this.attestAndPropose(_reward(JOB, 1, 0, 500));
    }

    function test_RevertWhen_PoolIsUnknown() public {
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.UnknownPool.selector, keccak256("none")));
        this.attestAndPropose(_reward(keccak256("none"), 1, ROOT, 0));
    }

    function test_RevertWhen_SignaturesAreTooFew() public {
        IRewardDistributor.RewardRoot memory reward = _reward(JOB, 1, ROOT, 500);
        bytes[] memory signatures = _attest(rewards.rewardRootDigest(reward), 2);
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.NotEnoughSignatures.selector, 2, 3));
        rewards.proposeRoot(reward, signatures);
    }

    function testFuzz_RevertWhen_AnySignedFieldChanges(uint8 field, uint64 mask) public {
        IRewardDistributor.RewardRoot memory reward = _reward(JOB, 1, ROOT, 500);
        bytes[] memory signatures = _attest(rewards.rewardRootDigest(reward), THRESHOLD);
        mask = uint64(bound(mask, 1, type(uint32).max));
        field = field % 3;
        if (field == 0) reward.root ^= bytes32(uint256(mask));
        if (field == 1) reward.total += mask;
        if (field == 2) reward.dataHash ^= bytes32(uint256(mask));
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.InvalidSignature.selector, memberList[0]));
        rewards.proposeRoot(reward, signatures);
    }

    function test_RevertWhen_SignaturesAreForAnotherJob() public {
        bytes32 other = keccak256("factory/other");
        vm.startPrank(sponsor);
        models.createJob(other, SPEC, GENESIS_MODEL);
        rewards.createPool(other, token);
        vm.stopPrank();
        IRewardDistributor.RewardRoot memory reward = _reward(JOB, 1, ROOT, 0);
        bytes[] memory signatures = _attest(rewards.rewardRootDigest(reward), THRESHOLD);
        reward.jobId = other;
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.InvalidSignature.selector, memberList[0]));
        rewards.proposeRoot(reward, signatures);
    }

    function test_RevertWhen_SignaturesAreForAnotherDistributor() public {
        RewardDistributor other =
            new RewardDistributor(ADMIN_DELAY, admin, committee, models, devices, ACTIVATION_DELAY, CLOSE_GRACE);
        IRewardDistributor.RewardRoot memory reward = _reward(JOB, 1, ROOT, 500);
        bytes[] memory signatures = _attest(other.rewardRootDigest(reward), THRESHOLD);
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.InvalidSignature.selector, memberList[0]));
        rewards.proposeRoot(reward, signatures);
    }

    function test_RevertWhen_GraceIsOver() public {
        vm.prank(sponsor);
        rewards.close(JOB);
        skip(CLOSE_GRACE);
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.GraceOver.selector, JOB, START + CLOSE_GRACE));
        this.attestAndPropose(_reward(JOB, 1, ROOT, 500));
    }

    function test_RevertWhen_Paused() public {
        vm.prank(guardian);
        rewards.pause();
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.PausedUntil.selector, START + 14 days));
        this.attestAndPropose(_reward(JOB, 1, ROOT, 500));
    }

    // --------------------------------------------------------------------------------------------------- drop

    function test_DropRoot_NeverPaysAndUsesUpItsEpoch() public {
        IRewardDistributor.RewardRoot memory reward = _reward(JOB, 1, ROOT, 500);
        _propose(reward);

        vm.expectEmit(address(rewards));
        emit IRewardDistributor.RootDropped(JOB, 1, ROOT);
        vm.prank(guardian);
        rewards.dropRoot(JOB, 1);

        skip(ACTIVATION_DELAY);
        assertEq(rewards.pools(JOB).active.root, 0);
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.EpochOutOfOrder.selector, JOB, 2, 1));
        this.attestAndPropose(reward);

        _propose(_reward(JOB, 2, keccak256("right"), 400));
        skip(ACTIVATION_DELAY);
        assertEq(rewards.pools(JOB).active.root, keccak256("right"));
    }

    function test_DropRoot_LeavesTheActiveRoot() public {
        _propose(_reward(JOB, 1, ROOT, 500));
        skip(ACTIVATION_DELAY);
        _propose(_reward(JOB, 2, keccak256("wrong"), 600));
        vm.prank(guardian);
        rewards.dropRoot(JOB, 2);
        skip(ACTIVATION_DELAY);
        IRewardDistributor.Pool memory pool = rewards.pools(JOB);
        assertEq(pool.active.root, ROOT);
        assertEq(pool.active.epoch, 1);
        assertEq(pool.pending.epoch, 2);
    }

    function test_DropRoot_WorksWhilePaused() public {
        _propose(_reward(JOB, 1, ROOT, 500));
        vm.startPrank(guardian);
        rewards.pause();
        rewards.dropRoot(JOB, 1);
        vm.stopPrank();
        assertEq(rewards.pools(JOB).pending.root, 0);
    }

    function test_RevertWhen_DropperIsNoGuardian() public {
        _propose(_reward(JOB, 1, ROOT, 500));
        _expectMissingRole(admin, rewards.GUARDIAN_ROLE());
        vm.prank(admin);
        rewards.dropRoot(JOB, 1);
    }

    function test_RevertWhen_NoSuchRootIsPending() public {
        bytes memory none = abi.encodeWithSelector(IRewardDistributor.NoPendingRoot.selector, JOB, 1);
        vm.startPrank(guardian);
        vm.expectRevert(none);
        rewards.dropRoot(JOB, 1);
        vm.stopPrank();

        _propose(_reward(JOB, 1, ROOT, 500));
        vm.startPrank(guardian);
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.NoPendingRoot.selector, JOB, 2));
        rewards.dropRoot(JOB, 2);
        skip(ACTIVATION_DELAY);
        vm.expectRevert(none);
        rewards.dropRoot(JOB, 1);
        vm.stopPrank();
    }

    /// @dev External, so that `expectRevert` sees one call that ends with `proposeRoot`'s revert.
    function attestAndPropose(IRewardDistributor.RewardRoot calldata reward) external {
        rewards.proposeRoot(reward, _attest(rewards.rewardRootDigest(reward), THRESHOLD));
    }
}
