// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

import {RewardDistributor} from "../../src/RewardDistributor.sol";
import {IRewardDistributor} from "../../src/interfaces/IRewardDistributor.sol";
import {BaseTest} from "../support/BaseTest.sol";
import {FeeToken, HookToken} from "../support/HostileTokens.sol";

contract PoolTest is BaseTest {
    bytes32 private constant OTHER_JOB = keccak256("factory/other");

    function setUp() public override {
        super.setUp();
        vm.prank(sponsor);
        models.createJob(OTHER_JOB, SPEC, GENESIS_MODEL);
    }

    // -------------------------------------------------------------------------------------------- constructor

    function test_Constructor_SetsImmutables() public view {
        assertEq(address(rewards.COMMITTEE()), address(committee));
        assertEq(address(rewards.MODEL_REGISTRY()), address(models));
        assertEq(address(rewards.DEVICE_REGISTRY()), address(devices));
        assertEq(rewards.ACTIVATION_DELAY(), ACTIVATION_DELAY);
        assertEq(rewards.CLOSE_GRACE(), CLOSE_GRACE);
        assertEq(rewards.GUARDIAN_ROLE(), keccak256("GUARDIAN_ROLE"));
        assertLt(rewards.MAX_CLOSE_GRACE(), rewards.PAUSE_COOLDOWN(), "time to withdraw between two pauses");
    }

    function test_RevertWhen_ADelayIsTooLong() public {
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.DelayTooLong.selector, 30 days + 1, 30 days));
        new RewardDistributor(ADMIN_DELAY, admin, committee, models, devices, 30 days + 1, 0);
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.DelayTooLong.selector, 21 days + 1, 21 days));
        new RewardDistributor(ADMIN_DELAY, admin, committee, models, devices, 0, 21 days + 1);
    }

    // ------------------------------------------------------------------------------------------------- create

    function test_CreatePool_BindsToken() public {
        vm.expectEmit(address(rewards));
        emit IRewardDistributor.PoolCreated(OTHER_JOB, token, sponsor);
        vm.prank(sponsor);
        rewards.createPool(OTHER_JOB, token);

        IRewardDistributor.Pool memory pool = rewards.pools(OTHER_JOB);
        assertEq(address(pool.token), address(token));
        assertEq(pool.funded, 0);
        assertEq(pool.pending.epoch, 0);
    }

    function test_RevertWhen_CreatorIsNotTheJobOwner() public {
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.NotJobOwner.selector, OTHER_JOB, sponsor, stranger));
        vm.prank(stranger);
        rewards.createPool(OTHER_JOB, token);
    }

    function test_RevertWhen_JobIsUnknown() public {
        bytes32 none = keccak256("none");
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.NotJobOwner.selector, none, address(0), sponsor));
        vm.prank(sponsor);
        rewards.createPool(none, token);
    }

    function test_RevertWhen_PoolExists() public {
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.PoolExists.selector, JOB));
        vm.prank(sponsor);
        rewards.createPool(JOB, token);
    }

    function test_RevertWhen_TokenHasNoCode() public {
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.NotAToken.selector, stranger));
        vm.prank(sponsor);
        rewards.createPool(OTHER_JOB, IERC20(stranger));
    }

    // --------------------------------------------------------------------------------------------------- fund

    function testFuzz_Fund_CreditsThePool(uint128 amount, uint128 more) public {
        amount = uint128(bound(amount, 1, type(uint128).max - 1));
        more = uint128(bound(more, 1, type(uint128).max - amount));
        _fund(JOB, amount);

        token.mint(stranger, more);
        vm.startPrank(stranger);
        token.approve(address(rewards), more);
        vm.expectEmit(address(rewards));
        emit IRewardDistributor.Funded(JOB, stranger, more, amount + more);
        rewards.fund(JOB, more);
        vm.stopPrank();

        assertEq(rewards.pools(JOB).funded, uint256(amount) + more);
        assertEq(token.balanceOf(address(rewards)), uint256(amount) + more);
    }

    function test_Fund_CreditsOnlyWhatArrives() public {
        FeeToken fee = new FeeToken();
        vm.prank(sponsor);
        rewards.createPool(OTHER_JOB, fee);
        fee.mint(address(this), 1000);
        fee.approve(address(rewards), 1000);

        rewards.fund(OTHER_JOB, 1000);

        assertEq(rewards.pools(OTHER_JOB).funded, 990);
        assertEq(fee.balanceOf(address(rewards)), 990);
    }

    function test_Fund_CannotBeReentered() public {
        HookToken hook = new HookToken();
        vm.prank(sponsor);
        rewards.createPool(OTHER_JOB, hook);
        hook.mint(address(this), 100);
        hook.approve(address(rewards), 100);
        hook.arm(address(rewards), abi.encodeCall(rewards.fund, (OTHER_JOB, 1)));

        rewards.fund(OTHER_JOB, 100);

        assertTrue(hook.called());
        assertFalse(hook.succeeded());
        assertEq(bytes4(hook.answer()), bytes4(keccak256("ReentrancyGuardReentrantCall()")));
        assertEq(rewards.pools(OTHER_JOB).funded, 100);
    }

    function test_RevertWhen_PoolIsUnknown() public {
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.UnknownPool.selector, OTHER_JOB));
        rewards.fund(OTHER_JOB, 1);
    }

    function test_RevertWhen_NothingArrives() public {
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.NothingReceived.selector, JOB));
        rewards.fund(JOB, 0);
    }

    function test_RevertWhen_FundingExceedsUint128() public {
        _fund(JOB, type(uint128).max);
        token.mint(address(this), 1);
        token.approve(address(rewards), 1);
        vm.expectRevert(abi.encodeWithSignature("Panic(uint256)", 0x11));
        rewards.fund(JOB, 1);
    }

    function test_RevertWhen_FundingAClosedPool() public {
        vm.prank(sponsor);
        rewards.close(JOB);
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.PoolIsClosed.selector, JOB, START));
        rewards.fund(JOB, 1);
    }
}
