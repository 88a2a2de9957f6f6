// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IDeviceRegistry} from "../src/interfaces/IDeviceRegistry.sol";
import {IModelRegistry} from "../src/interfaces/IModelRegistry.sol";
import {IRewardDistributor} from "../src/interfaces/IRewardDistributor.sol";
import {BaseTest} from "./support/BaseTest.sol";
import {StandardTree} from "./support/StandardTree.sol";

/// @notice Gas of whole transactions (intrinsic, calldata, cold storage), committed under `snapshots/` and compared on
/// every run. Write new figures with `FORGE_SNAPSHOT_CHECK=false forge test --mc GasTest`.
contract GasTest is BaseTest {
    using StandardTree for bytes32[];

    uint256 private constant LEAVES = 1000;
    uint256 private constant PUBLISH_LIMIT = 75_000;

    /// forge-config: default.isolate = true
    function test_Gas_SetUpOfAJob() public {
        bytes32 job = keccak256("factory/other");
        vm.startPrank(sponsor);
        models.createJob(job, SPEC, GENESIS_MODEL);
        vm.snapshotGasLastCall("fedge", "createJob");
        rewards.createPool(job, token);
        vm.snapshotGasLastCall("fedge", "createPool");
        vm.stopPrank();

        token.mint(sponsor, 2 * FUNDS);
        vm.startPrank(sponsor);
        token.approve(address(rewards), 2 * FUNDS);
        rewards.fund(job, FUNDS);
        vm.snapshotGasLastCall("fedge", "fund, first");
        rewards.fund(job, FUNDS);
        vm.snapshotGasLastCall("fedge", "fund, later");
        vm.stopPrank();
    }

    /// forge-config: default.isolate = true
    function test_Gas_Register() public {
        (IDeviceRegistry.DeviceBinding memory binding, bytes memory signature) = _binding("pump", stranger);
        vm.prank(registrar);
        devices.register(binding, signature);
        vm.snapshotGasLastCall("fedge", "register");

        IDeviceRegistry.DeviceBinding[] memory bindings = new IDeviceRegistry.DeviceBinding[](20);
        bytes[] memory signatures = new bytes[](20);
        for (uint256 i = 0; i < 20; ++i) {
            (bindings[i], signatures[i]) = _binding(string.concat("pump", vm.toString(i)), stranger);
        }
        vm.prank(registrar);
        devices.registerMany(bindings, signatures);
        vm.snapshotGasLastCall("fedge", "registerMany, 20 devices");

        vm.prank(registrar);
        devices.revoke(binding.device, "stolen");
        vm.snapshotGasLastCall("fedge", "revoke");
    }

    /// forge-config: default.isolate = true
    function test_Gas_Publish() public {
        _publish(3);
        uint256[3] memory signers = [uint256(1), 3, 5];
        for (uint256 i = 0; i < 3; ++i) {
            vm.prank(admin);
            committee.setCommittee(memberList, signers[i]);
            uint256 gas = _publish(signers[i]);
            if (signers[i] == 3) assertLe(gas, PUBLISH_LIMIT);
        }
    }

    /// forge-config: default.isolate = true
    function test_Gas_Rewards() public {
        _fund(JOB, FUNDS);
        address[] memory accounts = _accounts("earner", LEAVES);
        uint256[] memory amounts = new uint256[](LEAVES);
        for (uint256 epoch = 1; epoch <= 3; ++epoch) {
            uint128 total = 0;
            bytes32[] memory leaves = new bytes32[](LEAVES);
            for (uint256 i = 0; i < LEAVES; ++i) {
                amounts[i] += 1e18 + i;
                total += uint128(amounts[i]);
                leaves[i] = keccak256(bytes.concat(keccak256(abi.encode(JOB, accounts[i], amounts[i]))));
            }
            bytes32[] memory nodes = leaves.build();

            IRewardDistributor.RewardRoot memory reward = _reward(JOB, uint64(epoch), nodes[0], total);
            _propose(reward);
            if (epoch != 2) vm.snapshotGasLastCall("fedge", epoch == 1 ? "proposeRoot, first" : "proposeRoot, later");
            skip(ACTIVATION_DELAY);

            rewards.claim(JOB, accounts[0], amounts[0], nodes.proof(0));
            vm.snapshotGasLastCall("fedge", string.concat("claim and activate, epoch ", vm.toString(epoch)));
            rewards.claim(JOB, accounts[1], amounts[1], nodes.proof(1));
            if (epoch != 2) vm.snapshotGasLastCall("fedge", epoch == 1 ? "claim, first" : "claim, later");

            IRewardDistributor.Claim[] memory claims = new IRewardDistributor.Claim[](40);
            for (uint256 i = 0; i < 40; ++i) {
                claims[i] = IRewardDistributor.Claim({
                    jobId: JOB, account: accounts[i + 2], cumulative: amounts[i + 2], proof: nodes.proof(i + 2)
                });
            }
            rewards.claimMany(claims);
            if (epoch != 2) {
                vm.snapshotGasLastCall("fedge", epoch == 1 ? "claimMany of 40, first" : "claimMany of 40, later");
            }
        }
    }

    function _publish(uint256 signers) private returns (uint256 gas) {
        IModelRegistry.Checkpoint memory checkpoint = _nextCheckpoint(JOB);
        bytes[] memory signatures = _attest(models.checkpointDigest(checkpoint), signers);
        models.publish(checkpoint, signatures);
        string memory name = string.concat("publish, ", vm.toString(signers), " signers");
        return vm.snapshotGasLastCall("fedge", checkpoint.round == 1 ? "publish, first round" : name);
    }
}
