// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {BaseTest} from "../support/BaseTest.sol";
import {ModelHandler} from "./ModelHandler.sol";

contract ModelsInvariantTest is BaseTest {
    ModelHandler private handler;
    bytes32[2] private jobs = [JOB, keccak256("factory/other")];

    function setUp() public override {
        super.setUp();
        vm.prank(sponsor);
        models.createJob(jobs[1], SPEC, GENESIS_MODEL);
        vm.prank(admin);
        committee.setCommittee(memberList, 1);
        handler = new ModelHandler(models, keyOf[memberList[0]], jobs);
        targetContract(address(handler));
    }

    function invariant_HeadIsTheLastRightCheckpoint() public view {
        for (uint256 j = 0; j < 2; ++j) {
            (address owner, uint64 round,, bytes32 head, bytes32 specHash) = models.jobs(jobs[j]);
            assertEq(head, handler.heads(j));
            assertEq(round, handler.rounds(j));
            assertEq(owner, sponsor);
            assertEq(specHash, SPEC);
        }
        assertEq(handler.breaches(), 0);
    }

    function afterInvariant() public view {
        assertGt(handler.successes() * 2, handler.attempts());
        assertGt(handler.rounds(0) + handler.rounds(1), 0);
    }
}
