// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {stdJson} from "forge-std/StdJson.sol";

import {AggregatorCommittee} from "../src/AggregatorCommittee.sol";
import {DeviceRegistry} from "../src/DeviceRegistry.sol";
import {ModelRegistry} from "../src/ModelRegistry.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {IDeviceRegistry} from "../src/interfaces/IDeviceRegistry.sol";
import {IModelRegistry} from "../src/interfaces/IModelRegistry.sol";
import {IRewardDistributor} from "../src/interfaces/IRewardDistributor.sol";
import {BaseTest} from "./support/BaseTest.sol";
import {Split} from "./support/Split.sol";

/// @notice The vectors that Python checks too (`tests/vectors/contracts`), against the deployed contracts.
contract VectorsTest is BaseTest {
    using stdJson for string;

    uint256 private constant CASES = 5;
    uint256 private constant TREES = 6;
    uint256 private constant SPLITS = 9;

    string private json;

    /// @dev Deploys to the addresses and on the chain that the vectors were signed for, with their signers as committee.
    function setUp() public override {
        json = vm.readFile("../tests/vectors/contracts/typed_data.json");
        vm.chainId(json.readUint(".chainId"));
        super.setUp();

        memberList = new address[](3);
        for (uint256 i = 0; i < 3; ++i) {
            address signer = json.readAddress(string.concat(".signers[", vm.toString(i), "].address"));
            keyOf[signer] = json.readUint(string.concat(".signers[", vm.toString(i), "].key"));
            uint256 place = i;
            for (; place > 0 && memberList[place - 1] > signer; --place) {
                memberList[place] = memberList[place - 1];
            }
            memberList[place] = signer;
        }
        vm.prank(admin);
        committee.setCommittee(memberList, 1);

        devices = DeviceRegistry(json.readAddress(".contracts.DeviceRegistry"));
        deployCodeTo("DeviceRegistry.sol", abi.encode(ADMIN_DELAY, admin, PAYOUT_DELAY), address(devices));
        models = ModelRegistry(json.readAddress(".contracts.ModelRegistry"));
        deployCodeTo("ModelRegistry.sol", abi.encode(ADMIN_DELAY, admin, committee), address(models));
        rewards = RewardDistributor(json.readAddress(".contracts.RewardDistributor"));
        deployCodeTo(
            "RewardDistributor.sol",
            abi.encode(ADMIN_DELAY, admin, committee, models, devices, ACTIVATION_DELAY, CLOSE_GRACE),
            address(rewards)
        );
        vm.startPrank(admin);
        devices.grantRole(devices.REGISTRAR_ROLE(), registrar);
        vm.stopPrank();
    }

    function test_DeviceBinding_DigestAndSignature() public {
        for (uint256 i = 0; i < CASES; ++i) {
            string memory path = _case("DeviceBinding", i);
            IDeviceRegistry.DeviceBinding memory binding = IDeviceRegistry.DeviceBinding({
                deviceId: _word(path, "deviceId"),
                device: _address(path, "device"),
                payout: _address(path, "payout"),
                nonce: _word(path, "nonce"),
                notAfter: uint64(_uint(path, "notAfter"))
            });
            assertEq(devices.bindingDigest(binding), json.readBytes32(string.concat(path, ".digest")));
            // Case 1 is all zero and belongs to a time long past; cases 3 and 4 repeat the signers of 0 and 1.
            if (i == 0 || i == 2) {
                vm.prank(registrar);
                devices.register(binding, json.readBytes(string.concat(path, ".signature")));
                assertEq(devices.recipientOf(binding.device), binding.payout);
            }
        }
    }

    function test_Receipt_Digest() public view {
        for (uint256 i = 0; i < CASES; ++i) {
            string memory path = _case("Receipt", i);
            IDeviceRegistry.Receipt memory receipt = IDeviceRegistry.Receipt({
                jobId: _word(path, "jobId"),
                round: uint64(_uint(path, "round")),
                attempt: uint32(_uint(path, "attempt")),
                bucketRoot: _word(path, "bucketRoot"),
                updateHash: _word(path, "updateHash")
            });
            assertEq(devices.receiptDigest(receipt), json.readBytes32(string.concat(path, ".digest")));
        }
    }

    function test_PayoutChange_SignatureMovesThePayout() public {
        // Case 0 has the largest nonce, which no device has; its digest is compared in Python. A fresh registry's
        // devices have nonce 0, which is that of case 1.
        string memory path = _case("PayoutChange", 1);
        address device = _address(path, "device");
        IDeviceRegistry.DeviceBinding memory binding = IDeviceRegistry.DeviceBinding({
            deviceId: "id", device: device, payout: stranger, nonce: 0, notAfter: type(uint64).max
        });
        bytes memory consent = _signature(keyOf[device], devices.bindingDigest(binding));
        vm.prank(registrar);
        devices.register(binding, consent);

        // It is valid until second 0 only.
        vm.warp(0);
        devices.proposePayoutBySignature(
            device, _address(path, "payout"), 0, json.readBytes(string.concat(path, ".signature"))
        );
        skip(PAYOUT_DELAY);
        assertEq(devices.recipientOf(device), _address(path, "payout"));
    }

    function test_Checkpoint_HashDigestAndSignature() public view {
        for (uint256 i = 0; i < CASES; ++i) {
            string memory path = _case("Checkpoint", i);
            IModelRegistry.Checkpoint memory checkpoint = IModelRegistry.Checkpoint({
                jobId: _word(path, "jobId"),
                round: uint64(_uint(path, "round")),
                parent: _word(path, "parent"),
                modelHash: _word(path, "modelHash"),
                aggregateHash: _word(path, "aggregateHash"),
                cohortRoot: _word(path, "cohortRoot"),
                participationRoot: _word(path, "participationRoot"),
                metricsHash: _word(path, "metricsHash"),
                participants: uint64(_uint(path, "participants")),
                totalWeight: uint64(_uint(path, "totalWeight"))
            });
            bytes32 digest = models.checkpointDigest(checkpoint);
            assertEq(models.checkpointHash(checkpoint), json.readBytes32(string.concat(path, ".structHash")));
            assertEq(digest, json.readBytes32(string.concat(path, ".digest")));
            committee.verify(digest, _givenEntry(path));
        }
    }

    function test_Genesis_Hash() public view {
        for (uint256 i = 0; i < CASES; ++i) {
            string memory path = _case("Genesis", i);
            assertEq(
                models.genesisHash(_word(path, "jobId"), _word(path, "specHash"), _word(path, "genesisModelHash")),
                json.readBytes32(string.concat(path, ".structHash"))
            );
        }
    }

    function test_RewardRoot_DigestAndSignature() public view {
        for (uint256 i = 0; i < CASES; ++i) {
            string memory path = _case("RewardRoot", i);
            IRewardDistributor.RewardRoot memory reward = IRewardDistributor.RewardRoot({
                jobId: _word(path, "jobId"),
                epoch: uint64(_uint(path, "epoch")),
                root: _word(path, "root"),
                total: uint128(_uint(path, "total")),
                dataHash: _word(path, "dataHash")
            });
            bytes32 digest = rewards.rewardRootDigest(reward);
            assertEq(digest, json.readBytes32(string.concat(path, ".digest")));
            committee.verify(digest, _givenEntry(path));
        }
    }

    function test_ClaimTo_SignatureGetsPastTheCheck() public {
        // No pool holds the vector's job, so the call goes as far as it can: past the signature, to the missing pool.
        string memory path = _case("ClaimTo", 2);
        vm.mockCall(
            address(devices),
            abi.encodeCall(devices.recipientOf, (_address(path, "account"))),
            abi.encode(json.readAddress(string.concat(path, ".signer")))
        );
        vm.warp(uint64(_uint(path, "notAfter")));
        vm.expectRevert(abi.encodeWithSelector(IRewardDistributor.UnknownPool.selector, _word(path, "jobId")));
        rewards.claimTo(
            _word(path, "jobId"),
            _address(path, "account"),
            _address(path, "recipient"),
            _uint(path, "cumulative"),
            new bytes32[](0),
            uint64(_uint(path, "notAfter")),
            json.readBytes(string.concat(path, ".signature"))
        );
    }

    function test_RewardTrees_LeavesAndProofs() public {
        json = vm.readFile("../tests/vectors/contracts/merkle.json");
        uint256[TREES] memory sizes = [uint256(1), 2, 3, 5, 8, 33];
        for (uint256 t = 0; t < TREES; ++t) {
            string memory tree = string.concat(".rewards[", vm.toString(t), "]");
            bytes32 jobId = json.readBytes32(string.concat(tree, ".jobId"));
            bytes32 root = json.readBytes32(string.concat(tree, ".root"));
            uint256 total = 0;
            for (uint256 i = 0; i < sizes[t]; ++i) {
                string memory entry = string.concat(tree, ".entries[", vm.toString(i), "]");
                uint256 cumulative = json.readUint(string.concat(entry, ".cumulative"));
                bytes32 leaf = rewards.leafOf(jobId, json.readAddress(string.concat(entry, ".account")), cumulative);
                assertEq(leaf, json.readBytes32(string.concat(entry, ".leaf")));
                assertTrue(MerkleProof.verify(_proof(entry), root, leaf));
                total += cumulative;
            }
            assertEq(total, json.readUint(string.concat(tree, ".total")));
        }
    }

    function test_ParticipationTrees_LeavesAndProofs() public {
        json = vm.readFile("../tests/vectors/contracts/merkle.json");
        uint256[TREES] memory sizes = [uint256(1), 2, 3, 5, 8, 33];
        for (uint256 t = 0; t < TREES; ++t) {
            string memory tree = string.concat(".participation[", vm.toString(t), "]");
            bytes32 root = json.readBytes32(string.concat(tree, ".root"));
            address previous = address(0);
            for (uint256 i = 0; i < sizes[t]; ++i) {
                string memory entry = string.concat(tree, ".entries[", vm.toString(i), "]");
                address device = json.readAddress(string.concat(entry, ".device"));
                uint64 weight = uint64(json.readUint(string.concat(entry, ".weight")));
                bytes32 updateHash = json.readBytes32(string.concat(entry, ".updateHash"));
                bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(device, weight, updateHash))));
                assertEq(leaf, json.readBytes32(string.concat(entry, ".leaf")));
                assertTrue(MerkleProof.verify(_proof(entry), root, leaf));
                assertGt(uint160(device), uint160(previous));
                previous = device;
            }
        }
    }

    function test_RewardSplit_AgreesToTheLastUnit() public {
        json = vm.readFile("../tests/vectors/contracts/reward_split.json");
        for (uint256 i = 0; i < SPLITS; ++i) {
            string memory path = string.concat(".cases[", vm.toString(i), "]");
            uint256[] memory shares = Split.participation(
                json.readUint(string.concat(path, ".budget")), json.readUintArray(string.concat(path, ".weights"))
            );
            assertEq(
                shares,
                json.readUintArray(string.concat(path, ".shares")),
                json.readString(string.concat(path, ".label"))
            );
        }
        assertFalse(vm.keyExistsJson(json, string.concat(".cases[", vm.toString(SPLITS), "]")), "a case is left out");
    }

    // ------------------------------------------------------------------------------------------------ reading

    function _case(string memory name, uint256 index) private pure returns (string memory) {
        return string.concat(".", name, ".cases[", vm.toString(index), "]");
    }

    function _word(string memory path, string memory key) private view returns (bytes32) {
        return json.readBytes32(string.concat(path, ".message.", key));
    }

    function _address(string memory path, string memory key) private view returns (address) {
        return json.readAddress(string.concat(path, ".message.", key));
    }

    function _uint(string memory path, string memory key) private view returns (uint256) {
        return json.readUint(string.concat(path, ".message.", key));
    }

    function _givenEntry(string memory path) private view returns (bytes[] memory entries) {
        entries = new bytes[](1);
        entries[0] = abi.encodePacked(
            json.readAddress(string.concat(path, ".signer")), json.readBytes(string.concat(path, ".signature"))
        );
    }

    function _proof(string memory entry) private view returns (bytes32[] memory) {
        return json.readBytes32Array(string.concat(entry, ".proof"));
    }
}
