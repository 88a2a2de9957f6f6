// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IRewardDistributor} from "../../src/interfaces/IRewardDistributor.sol";
import {BaseTest} from "../support/BaseTest.sol";
import {HookToken} from "../support/HostileTokens.sol";
import {StandardTree} from "../support/StandardTree.sol";

contract ClaimTest is BaseTest {
    using StandardTree for bytes32[];

    uint256 private constant EARNERS = 7;

    address[] private accounts;

    function setUp() public override {
        super.setUp();
        _fund(JOB, FUNDS);
        accounts = _accounts("earner", EARNERS);
    }

    function test_Claim_PaysTheAccount() public {
        uint256[] memory amounts = _amounts(EARNERS, 1);
        bytes32[] memory nodes = _settle(JOB, accounts, amounts);

        vm.expectEmit(address(rewards));
        emit IRewardDistributor.Claimed(JOB, accounts[3], accounts[3], amounts[3], amounts[3]);
        vm.prank(relayer);
        rewards.claim(JOB, accounts[3], amounts[3], nodes.proof(3));

        assertEq(token.balanceOf(accounts[3]), amounts[3]);
        assertEq(rewards.claimedOf(JOB, accounts[3]), amounts[3]);
        assertEq(rewards.pools(JOB).claimed, amounts[3]);
        assertEq(token.balanceOf(relayer), 0);
    }

    function test_Claim_PaysTheDeltaOfALaterEpoch() public {
        bytes32[] memory nodes = _settle(JOB, accounts, _amounts(EARNERS, 1));
        rewards.claim(JOB, accounts[0], 100e18, nodes.proof(0));
        nodes = _settle(JOB, accounts, _amounts(EARNERS, 3));

        vm.expectEmit(address(rewards));
        emit IRewardDistributor.Claimed(JOB, accounts[0], accounts[0], 200e18, 300e18);
        rewards.claim(JOB, accounts[0], 300e18, nodes.proof(0));

        assertEq(token.balanceOf(accounts[0]), 300e18);
    }

    function test_Claim_SkippedEpochsArePaidAtOnce() public {
        _settle(JOB, accounts, _amounts(EARNERS, 1));
        _settle(JOB, accounts, _amounts(EARNERS, 2));
        bytes32[] memory nodes = _settle(JOB, accounts, _amounts(EARNERS, 5));
        rewards.claim(JOB, accounts[6], 3500e18, nodes.proof(6));
        assertEq(token.balanceOf(accounts[6]), 3500e18);
    }

    function test_Claim_PaysADevicesPayoutAccount() public {
        accounts[1] = _register("pump", stranger);
        bytes32[] memory nodes = _settle(JOB, accounts, _amounts(EARNERS, 1));
        vm.prank(registrar);
        devices.revoke(accounts[1], "retired");

        rewards.claim(JOB, accounts[1], 200e18, nodes.proof(1));

        assertEq(token.balanceOf(stranger), 200e18, "what was earned stays payable after revocation");
        assertEq(token.balanceOf(accounts[1]), 0);
    }

    function test_Claim_SingleLeafNeedsNoProof() public {
        address[] memory one = _accounts("only", 1);
        _settle(JOB, one, _amounts(1, 1));
        rewards.claim(JOB, one[0], 100e18, new bytes32[](0));
        assertEq(token.balanceOf(one[0]), 100e18);
    }

    function testFuzz_Claim_EveryLeafOfEveryTreeIsPaidExactly(uint8 count, uint256 seed) public {
        count = uint8(bound(count, 1, 40));
        address[] memory earners = _accounts("fuzzed", count);
        uint256[] memory amounts = new uint256[](count);
        uint256 total = 0;
        for (uint256 i = 0; i < count; ++i) {
            amounts[i] = uint256(keccak256(abi.encode(seed, i))) % (FUNDS / 40) + 1;
            total += amounts[i];
        }
        bytes32[] memory nodes = _settle(JOB, earners, amounts);
        for (uint256 i = 0; i < count; ++i) {
            rewards.claim(JOB, earners[i], amounts[i], nodes.proof(i));
            assertEq(token.balanceOf(earners[i]), amounts[i]);
        }
        assertEq(rewards.pools(JOB).claimed, total);
        assertEq(token.balanceOf(address(rewards)), FUNDS - total);
    }

    function test_Claim_CannotBeReentered() public {
        bytes32 job = keccak256("factory/hooked");
        HookToken hook = new HookToken();
        vm.startPrank(sponsor);
        models.createJob(job, SPEC, GENESIS_MODEL);
        rewards.createPool(job, hook);
        vm.stopPrank();
        hook.mint(address(this), 2000e18);
        hook.approve(address(rewards), 2000e18);
        rewards.fund(job, 2000e18);
        address[] memory two = _accounts("two", 2);
        bytes32[] memory nodes = _settle(job, two, _amounts(2, 1));
        hook.arm(address(rewards), abi.encodeCall(rewards.claim, (job, two[1], 200e18, nodes.proof(1))));

        rewards.claim(job, two[0], 100e18, nodes.proof(0));

        assertTrue(hook.called());
        assertFalse(hook.succeeded());
        assertEq(bytes4(hook.answer()), bytes4(keccak256("ReentrancyGuardReentrantCall()")));
        assertEq(hook.balanceOf(two[1]), 0);
    }

    function test_RevertWhen_RootIsNotYetActive() public {
        uint256[] memory amounts = _amounts(EARNERS, 1);
        bytes32[] memory nodes = _tree(JOB, accounts, amounts);
        _propose(_reward(JOB, 1, nodes[0], 2800e18));
        skip(ACTIVATION_DELAY - 1);
        _expectInvalidProof(accounts[0], 100e18);
        rewards.claim(JOB, accounts[0], 100e18, nodes.proof(0));
    }

    function test_RevertWhen_RootWasDropped() public {
        bytes32[] memory nodes = _tree(JOB, accounts, _amounts(EARNERS, 1));
        _propose(_reward(JOB, 1, nodes[0], 2800e18));
        vm.prank(guardian);
        rewards.dropRoot(JOB, 1);
        skip(ACTIVATION_DELAY);
        _expectInvalidProof(accounts[0], 100e18);
        rewards.claim(JOB, accounts[0], 100e18, nodes.proof(0));
    }

    function test_RevertWhen_ClaimedTwice() public {
        bytes32[] memory nodes = _settle(JOB, accounts, _amounts(EARNERS, 1));
        rewards.claim(JOB, accounts[0], 100e18, nodes.proof(0));
        vm.expectRevert(
            abi.encodeWithSelector(IRewardDistributor.NothingToClaim.selector, JOB, accounts[0], 100e18, 100e18)
        );
        rewards.claim(JOB, accounts[0], 100e18, nodes.proof(0));
    }

    function test_RevertWhen_CumulativeFell() public {
        bytes32[] memory nodes = _settle(JOB, accounts, _amounts(EARNERS, 2));
        rewards.claim(JOB, accounts[0], 200e18, nodes.proof(0));
        uint256[] memory lower = _amounts(EARNERS, 2);
        (lower[0], lower[1]) = (50e18, 550e18);
        nodes = _settle(JOB, accounts, lower);
        vm.expectRevert(
            abi.encodeWithSelector(IRewardDistributor.NothingToClaim.selector, JOB, accounts[0], 50e18, 200e18)
        );
        rewards.claim(JOB, accounts[0], 50e18, nodes.proof(0));
    }

    function test_RevertWhen_LeavesPromiseMoreThanTheDeclaredTotal() public {
        bytes32[] memory nodes = _tree(JOB, accounts, _amounts(EARNERS, 1));
        _propose(_reward(JOB, 1, nodes[0], 250e18));
        skip(ACTIVATION_DELAY);
        rewards.claim(JOB, accounts[0], 100e18, nodes.proof(0));
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.TotalExceeded.selector, JOB, 300e18, 250e18));
        rewards.claim(JOB, accounts[1], 200e18, nodes.proof(1));
    }

    function testFuzz_RevertWhen_AmountIsAnother(uint256 cumulative) public {
        vm.assume(cumulative != 100e18);
        bytes32[] memory nodes = _settle(JOB, accounts, _amounts(EARNERS, 1));
        _expectInvalidProof(accounts[0], cumulative);
        rewards.claim(JOB, accounts[0], cumulative, nodes.proof(0));
    }

    function test_RevertWhen_AccountIsAnother() public {
        bytes32[] memory nodes = _settle(JOB, accounts, _amounts(EARNERS, 1));
        _expectInvalidProof(stranger, 100e18);
        rewards.claim(JOB, stranger, 100e18, nodes.proof(0));
    }

    function test_RevertWhen_ProofIsOfAnotherJob() public {
        bytes32 other = keccak256("factory/other");
        vm.startPrank(sponsor);
        models.createJob(other, SPEC, GENESIS_MODEL);
        rewards.createPool(other, token);
        vm.stopPrank();
        _fund(other, FUNDS);
        bytes32[] memory nodes = _settle(JOB, accounts, _amounts(EARNERS, 1));
        // The very same root, attested for the other job: the leaf still names its own job.
        _propose(_reward(other, 1, nodes[0], 2800e18));
        skip(ACTIVATION_DELAY);
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.InvalidProof.selector, other, accounts[0], 100e18));
        rewards.claim(other, accounts[0], 100e18, nodes.proof(0));
    }

    function test_RevertWhen_PoolIsUnknown() public {
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.UnknownPool.selector, keccak256("none")));
        rewards.claim(keccak256("none"), accounts[0], 1, new bytes32[](0));
    }

    function test_RevertWhen_Paused() public {
        bytes32[] memory nodes = _settle(JOB, accounts, _amounts(EARNERS, 1));
        vm.prank(guardian);
        rewards.pause();
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.PausedUntil.selector, block.timestamp + 14 days));
        rewards.claim(JOB, accounts[0], 100e18, nodes.proof(0));
    }

    function _expectInvalidProof(address account, uint256 cumulative) private {
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.InvalidProof.selector, JOB, account, cumulative));
    }
}
