// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IRewardDistributor} from "../../src/interfaces/IRewardDistributor.sol";
import {BaseTest} from "../support/BaseTest.sol";
import {BlockingToken} from "../support/HostileTokens.sol";
import {StandardTree} from "../support/StandardTree.sol";

contract ClaimManyTest is BaseTest {
    using StandardTree for bytes32[];

    bytes32 private constant BLOCKING_JOB = keccak256("factory/blocking");

    address[] private accounts;
    uint256[] private amounts;

    function setUp() public override {
        super.setUp();
        _fund(JOB, FUNDS);
        accounts = _accounts("earner", 4);
        amounts = _amounts(4, 1);
    }

    function test_ClaimMany_PaysAll() public {
        bytes32[] memory nodes = _settle(JOB, accounts, amounts);
        for (uint256 i = 0; i < 4; ++i) {
            vm.expectEmit(address(rewards));
            emit IRewardDistributor.Claimed(JOB, accounts[i], accounts[i], amounts[i], amounts[i]);
        }
        vm.prank(relayer);
        rewards.claimMany(_claims(JOB, nodes));

        for (uint256 i = 0; i < 4; ++i) {
            assertEq(token.balanceOf(accounts[i]), amounts[i]);
        }
        assertEq(rewards.pools(JOB).claimed, 1000e18);
    }

    function test_ClaimMany_PassesOverWhatIsPaid() public {
        bytes32[] memory nodes = _settle(JOB, accounts, amounts);
        rewards.claim(JOB, accounts[2], amounts[2], nodes.proof(2));
        IRewardDistributor.Claim[] memory claims = _claims(JOB, nodes);
        claims[3] = claims[0];

        rewards.claimMany(claims);

        assertEq(token.balanceOf(accounts[0]), amounts[0], "named twice, paid once");
        assertEq(token.balanceOf(accounts[2]), amounts[2]);
        assertEq(rewards.pools(JOB).claimed, 600e18);
    }

    function test_ClaimMany_LeavesOutARefusedRecipient() public {
        BlockingToken blocking = _blockingPool();
        bytes32[] memory nodes = _settle(BLOCKING_JOB, accounts, amounts);
        blocking.setBlocked(accounts[1], true);

        vm.expectEmit(address(rewards));
        emit IRewardDistributor.ClaimSkipped(BLOCKING_JOB, accounts[1], accounts[1], amounts[1]);
        rewards.claimMany(_claims(BLOCKING_JOB, nodes));

        assertEq(blocking.balanceOf(accounts[0]), amounts[0]);
        assertEq(blocking.balanceOf(accounts[1]), 0);
        assertEq(blocking.balanceOf(accounts[3]), amounts[3]);
        assertEq(rewards.claimedOf(BLOCKING_JOB, accounts[1]), 0);
        assertEq(rewards.pools(BLOCKING_JOB).claimed, 800e18);

        blocking.setBlocked(accounts[1], false);
        rewards.claim(BLOCKING_JOB, accounts[1], amounts[1], nodes.proof(1));
        assertEq(blocking.balanceOf(accounts[1]), amounts[1], "it stays claimable");
    }

    function test_ClaimMany_KeepsWhatARefusedRecipientHadBefore() public {
        BlockingToken blocking = _blockingPool();
        bytes32[] memory nodes = _settle(BLOCKING_JOB, accounts, amounts);
        rewards.claimMany(_claims(BLOCKING_JOB, nodes));
        blocking.setBlocked(accounts[1], true);
        amounts = _amounts(4, 2);
        nodes = _settle(BLOCKING_JOB, accounts, amounts);

        rewards.claimMany(_claims(BLOCKING_JOB, nodes));

        assertEq(rewards.claimedOf(BLOCKING_JOB, accounts[1]), 200e18);
        assertEq(rewards.pools(BLOCKING_JOB).claimed, 1800e18);
    }

    function test_RevertWhen_SingleClaimIsRefusedByTheToken() public {
        BlockingToken blocking = _blockingPool();
        bytes32[] memory nodes = _settle(BLOCKING_JOB, accounts, amounts);
        blocking.setBlocked(accounts[1], true);
        vm.expectRevert(abi.encodeWithSelector(BlockingToken.Blocked.selector, accounts[1]));
        rewards.claim(BLOCKING_JOB, accounts[1], amounts[1], nodes.proof(1));
    }

    function test_RevertWhen_OneProofIsInvalid() public {
        bytes32[] memory nodes = _settle(JOB, accounts, amounts);
        IRewardDistributor.Claim[] memory claims = _claims(JOB, nodes);
        claims[3].cumulative += 1;
        vm.expectRevert(
            abi.encodeWithSelector(IRewardDistributor.InvalidProof.selector, JOB, accounts[3], amounts[3] + 1)
        );
        rewards.claimMany(claims);
        assertEq(token.balanceOf(accounts[0]), 0);
    }

    function test_RevertWhen_Paused() public {
        vm.prank(guardian);
        rewards.pause();
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.PausedUntil.selector, START + 14 days));
        rewards.claimMany(new IRewardDistributor.Claim[](0));
    }

    function _blockingPool() private returns (BlockingToken blocking) {
        blocking = new BlockingToken();
        vm.startPrank(sponsor);
        models.createJob(BLOCKING_JOB, SPEC, GENESIS_MODEL);
        rewards.createPool(BLOCKING_JOB, blocking);
        vm.stopPrank();
        blocking.mint(address(this), FUNDS);
        blocking.approve(address(rewards), FUNDS);
        rewards.fund(BLOCKING_JOB, FUNDS);
    }

    function _claims(bytes32 jobId, bytes32[] memory nodes)
        private
        view
        returns (IRewardDistributor.Claim[] memory claims)
    {
        claims = new IRewardDistributor.Claim[](accounts.length);
        for (uint256 i = 0; i < accounts.length; ++i) {
            claims[i] = IRewardDistributor.Claim({
                jobId: jobId, account: accounts[i], cumulative: amounts[i], proof: nodes.proof(i)
            });
        }
    }
}
