// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IModelRegistry} from "../../src/interfaces/IModelRegistry.sol";
import {BaseTest} from "../support/BaseTest.sol";

contract CreateJobTest is BaseTest {
    bytes32 private constant OTHER_JOB = keccak256("factory/other");

    function test_Constructor_SetsCommittee() public view {
        assertEq(address(models.COMMITTEE()), address(committee));
        assertEq(models.JOB_CREATOR_ROLE(), keccak256("JOB_CREATOR_ROLE"));
    }

    function test_CreateJob_StartsTheChainAtTheGenesisHash() public {
        vm.expectEmit(address(models));
        emit IModelRegistry.JobCreated(OTHER_JOB, sponsor, SPEC, GENESIS_MODEL);
        vm.prank(sponsor);
        models.createJob(OTHER_JOB, SPEC, GENESIS_MODEL);

        (address owner, uint64 round, uint32 createdAt, bytes32 head, bytes32 specHash) = models.jobs(OTHER_JOB);
        assertEq(owner, sponsor);
        assertEq(round, 0);
        assertEq(createdAt, START);
        bytes32 typehash = keccak256("Genesis(bytes32 jobId,bytes32 specHash,bytes32 genesisModelHash)");
        assertEq(head, keccak256(abi.encode(typehash, OTHER_JOB, SPEC, GENESIS_MODEL)));
        assertEq(head, models.genesisHash(OTHER_JOB, SPEC, GENESIS_MODEL));
        assertEq(specHash, SPEC);
    }

    function test_RevertWhen_CallerIsNoJobCreator() public {
        _expectMissingRole(stranger, models.JOB_CREATOR_ROLE());
        vm.prank(stranger);
        models.createJob(OTHER_JOB, SPEC, GENESIS_MODEL);
    }

    function test_RevertWhen_JobExists() public {
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.JobExists.selector, JOB, sponsor));
        vm.prank(sponsor);
        models.createJob(JOB, SPEC, GENESIS_MODEL);
    }

    function test_RevertWhen_AFieldIsZero() public {
        vm.startPrank(sponsor);
        vm.expectRevert(IModelRegistry.ZeroField.selector);
        models.createJob(0, SPEC, GENESIS_MODEL);
        vm.expectRevert(IModelRegistry.ZeroField.selector);
        models.createJob(OTHER_JOB, 0, GENESIS_MODEL);
        vm.expectRevert(IModelRegistry.ZeroField.selector);
        models.createJob(OTHER_JOB, SPEC, 0);
        vm.stopPrank();
    }
}
