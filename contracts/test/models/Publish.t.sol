// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ModelRegistry} from "../../src/ModelRegistry.sol";
import {IAggregatorCommittee} from "../../src/interfaces/IAggregatorCommittee.sol";
import {IModelRegistry} from "../../src/interfaces/IModelRegistry.sol";
import {BaseTest} from "../support/BaseTest.sol";

contract PublishTest is BaseTest {
    function test_Publish_AppendsToTheChain() public {
        IModelRegistry.Checkpoint memory checkpoint = _nextCheckpoint(JOB);
        bytes32 head = models.checkpointHash(checkpoint);
        bytes[] memory signatures = _attest(models.checkpointDigest(checkpoint), THRESHOLD);

        vm.expectEmit(address(models));
        emit IModelRegistry.CheckpointPublished(JOB, 1, checkpoint.modelHash, head, checkpoint);
        vm.prank(stranger);
        models.publish(checkpoint, signatures);

        (address owner, uint64 round, uint32 createdAt, bytes32 newHead, bytes32 specHash) = models.jobs(JOB);
        assertEq(owner, sponsor);
        assertEq(round, 1);
        assertEq(createdAt, START);
        assertEq(newHead, head);
        assertEq(specHash, SPEC);
    }

    function testFuzz_Publish_HeadIsTheFoldOfAllCheckpoints(uint8 rounds, bytes32 salt) public {
        rounds = uint8(bound(rounds, 1, 8));
        bytes32 expected = models.genesisHash(JOB, SPEC, GENESIS_MODEL);
        for (uint256 i = 0; i < rounds; ++i) {
            IModelRegistry.Checkpoint memory checkpoint = _nextCheckpoint(JOB);
            assertEq(checkpoint.parent, expected);
            checkpoint.modelHash = keccak256(abi.encode(salt, i));
            _publish(checkpoint);
            expected = models.checkpointHash(checkpoint);
        }
        (, uint64 round,, bytes32 head,) = models.jobs(JOB);
        assertEq(round, rounds);
        assertEq(head, expected);
    }

    function test_Publish_JobsDoNotTouchOneAnother() public {
        bytes32 other = keccak256("factory/other");
        vm.prank(sponsor);
        models.createJob(other, SPEC, GENESIS_MODEL);
        (,,, bytes32 otherHead,) = models.jobs(other);

        _publish(_nextCheckpoint(JOB));

        (, uint64 round,, bytes32 head,) = models.jobs(other);
        assertEq(round, 0);
        assertEq(head, otherHead);
    }

    function test_RevertWhen_JobIsUnknown() public {
        IModelRegistry.Checkpoint memory checkpoint = _nextCheckpoint(keccak256("none"));
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.UnknownJob.selector, keccak256("none")));
        this.attestAndPublish(checkpoint);
    }

    function testFuzz_RevertWhen_RoundIsNotTheNext(uint64 round) public {
        vm.assume(round != 2);
        _publish(_nextCheckpoint(JOB));
        IModelRegistry.Checkpoint memory checkpoint = _nextCheckpoint(JOB);
        checkpoint.round = round;
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.RoundOutOfOrder.selector, JOB, 2, round));
        this.attestAndPublish(checkpoint);
    }

    function test_RevertWhen_CheckpointIsReplayed() public {
        IModelRegistry.Checkpoint memory checkpoint = _nextCheckpoint(JOB);
        _publish(checkpoint);
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.RoundOutOfOrder.selector, JOB, 2, 1));
        this.attestAndPublish(checkpoint);
    }

    function test_RevertWhen_ParentIsNotTheHead() public {
        IModelRegistry.Checkpoint memory checkpoint = _nextCheckpoint(JOB);
        bytes32 head = checkpoint.parent;
        checkpoint.parent = keccak256("fork");
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ParentMismatch.selector, JOB, head, keccak256("fork")));
        this.attestAndPublish(checkpoint);
    }

    function test_RevertWhen_AFieldIsZero() public {
        IModelRegistry.Checkpoint memory good = _nextCheckpoint(JOB);
        for (uint256 i = 0; i < 3; ++i) {
            IModelRegistry.Checkpoint memory checkpoint = abi.decode(abi.encode(good), (IModelRegistry.Checkpoint));
            if (i == 0) checkpoint.modelHash = 0;
            if (i == 1) checkpoint.participants = 0;
            if (i == 2) checkpoint.totalWeight = 0;
            vm.expectRevert(IModelRegistry.ZeroField.selector);
            this.attestAndPublish(checkpoint);
        }
    }

    function test_RevertWhen_SignaturesAreTooFew() public {
        IModelRegistry.Checkpoint memory checkpoint = _nextCheckpoint(JOB);
        bytes[] memory signatures = _attest(models.checkpointDigest(checkpoint), 2);
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.NotEnoughSignatures.selector, 2, 3));
        models.publish(checkpoint, signatures);
    }

    function testFuzz_RevertWhen_AnySignedFieldChanges(uint8 field, uint64 mask) public {
        IModelRegistry.Checkpoint memory checkpoint = _nextCheckpoint(JOB);
        bytes[] memory signatures = _attest(models.checkpointDigest(checkpoint), THRESHOLD);
        mask = uint64(bound(mask, 1, type(uint32).max));
        field = field % 7;
        if (field == 0) checkpoint.modelHash ^= bytes32(uint256(mask));
        if (field == 1) checkpoint.aggregateHash ^= bytes32(uint256(mask));
        if (field == 2) checkpoint.cohortRoot ^= bytes32(uint256(mask));
        if (field == 3) checkpoint.participationRoot ^= bytes32(uint256(mask));
        if (field == 4) checkpoint.metricsHash ^= bytes32(uint256(mask));
        if (field == 5) checkpoint.participants += mask;
        if (field == 6) checkpoint.totalWeight += mask;
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.InvalidSignature.selector, memberList[0]));
        models.publish(checkpoint, signatures);
    }

    function test_RevertWhen_SignaturesAreForAnotherRegistry() public {
        ModelRegistry other = new ModelRegistry(ADMIN_DELAY, admin, committee);
        IModelRegistry.Checkpoint memory checkpoint = _nextCheckpoint(JOB);
        bytes[] memory signatures = _attest(other.checkpointDigest(checkpoint), THRESHOLD);
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.InvalidSignature.selector, memberList[0]));
        models.publish(checkpoint, signatures);
    }

    function test_RevertWhen_SignaturesAreForAnotherChain() public {
        IModelRegistry.Checkpoint memory checkpoint = _nextCheckpoint(JOB);
        bytes[] memory signatures = _attest(models.checkpointDigest(checkpoint), THRESHOLD);
        vm.chainId(block.chainid + 1);
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.InvalidSignature.selector, memberList[0]));
        models.publish(checkpoint, signatures);
    }

    /// @dev External, so that `expectRevert` sees one call that ends with `publish`'s revert.
    function attestAndPublish(IModelRegistry.Checkpoint calldata checkpoint) external {
        models.publish(checkpoint, _attest(models.checkpointDigest(checkpoint), THRESHOLD));
    }

    function _publish(IModelRegistry.Checkpoint memory checkpoint) private {
        this.attestAndPublish(checkpoint);
    }
}
