// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {CommonBase} from "forge-std/Base.sol";

import {ModelRegistry} from "../../src/ModelRegistry.sol";
import {IModelRegistry} from "../../src/interfaces/IModelRegistry.sol";

/// @title Publishes to two jobs: right checkpoints, and wrong ones that must fail
contract ModelHandler is CommonBase {
    ModelRegistry public immutable MODELS;
    uint256 private immutable COMMITTEE_KEY;

    bytes32[2] public jobs;
    bytes32[2] public heads;
    uint64[2] public rounds;
    uint256 public attempts;
    uint256 public successes;
    uint256 public breaches;

    constructor(ModelRegistry models, uint256 committeeKey, bytes32[2] memory jobIds) {
        MODELS = models;
        COMMITTEE_KEY = committeeKey;
        jobs = jobIds;
        for (uint256 j = 0; j < 2; ++j) {
            (,,, heads[j],) = models.jobs(jobIds[j]);
        }
    }

    function publish(uint256 job, bytes32 salt, uint64 participants) external {
        ++attempts;
        job = job % 2;
        IModelRegistry.Checkpoint memory checkpoint = _next(job, salt);
        checkpoint.participants = participants == 0 ? 1 : participants;
        bytes[] memory signatures = _sign(checkpoint);
        MODELS.publish(checkpoint, signatures);
        heads[job] = MODELS.checkpointHash(checkpoint);
        rounds[job] = checkpoint.round;
        ++successes;
        _mustFail(checkpoint, signatures);
    }

    function publishWrong(uint256 job, bytes32 salt, uint8 fault, uint64 noise) external {
        ++attempts;
        job = job % 2;
        IModelRegistry.Checkpoint memory checkpoint = _next(job, salt);
        bytes[] memory signatures = _sign(checkpoint);
        noise = noise == 0 ? 1 : noise;
        fault = fault % 4;
        unchecked {
            if (fault == 0) checkpoint.round += noise;
        }
        if (fault == 1) checkpoint.parent ^= bytes32(uint256(noise));
        if (fault == 2) checkpoint.jobId = jobs[1 - job];
        if (fault < 3) signatures = _sign(checkpoint);
        // Signed with the other job's parent, or not signed as it stands.
        if (fault == 3) checkpoint.modelHash ^= bytes32(uint256(noise));
        _mustFail(checkpoint, signatures);
        ++successes;
    }

    function _next(uint256 job, bytes32 salt) private view returns (IModelRegistry.Checkpoint memory) {
        return IModelRegistry.Checkpoint({
            jobId: jobs[job],
            round: rounds[job] + 1,
            parent: heads[job],
            modelHash: keccak256(abi.encode("model", salt)),
            aggregateHash: salt,
            cohortRoot: salt,
            participationRoot: salt,
            metricsHash: salt,
            participants: 1,
            totalWeight: 1
        });
    }

    function _sign(IModelRegistry.Checkpoint memory checkpoint) private view returns (bytes[] memory signatures) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(COMMITTEE_KEY, MODELS.checkpointDigest(checkpoint));
        signatures = new bytes[](1);
        signatures[0] = abi.encodePacked(vm.addr(COMMITTEE_KEY), r, s, v);
    }

    function _mustFail(IModelRegistry.Checkpoint memory checkpoint, bytes[] memory signatures) private {
        try MODELS.publish(checkpoint, signatures) {
            ++breaches;
        } catch {}
    }
}
