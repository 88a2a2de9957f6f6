// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {Test} from "forge-std/Test.sol";

import {AggregatorCommittee} from "../../src/AggregatorCommittee.sol";
import {DeviceRegistry} from "../../src/DeviceRegistry.sol";
import {ModelRegistry} from "../../src/ModelRegistry.sol";
import {RewardDistributor} from "../../src/RewardDistributor.sol";
import {FedgeDemoToken} from "../../src/demo/FedgeDemoToken.sol";
import {IDeviceRegistry} from "../../src/interfaces/IDeviceRegistry.sol";
import {IModelRegistry} from "../../src/interfaces/IModelRegistry.sol";
import {IRewardDistributor} from "../../src/interfaces/IRewardDistributor.sol";
import {StandardTree} from "./StandardTree.sol";

/// @title The whole system deployed: a 3-of-5 committee, one job with a funded pool, and every role on its own account
abstract contract BaseTest is Test {
    using StandardTree for bytes32[];

    uint256 internal constant START = 1_800_000_000;
    uint48 internal constant ADMIN_DELAY = 2 days;
    uint64 internal constant PAYOUT_DELAY = 3 days;
    uint64 internal constant ACTIVATION_DELAY = 1 days;
    uint64 internal constant CLOSE_GRACE = 7 days;
    uint256 internal constant THRESHOLD = 3;
    uint128 internal constant FUNDS = 1_000_000e18;

    bytes32 internal constant JOB = keccak256("factory/vibration");
    bytes32 internal constant SPEC = keccak256("spec");
    bytes32 internal constant GENESIS_MODEL = keccak256("genesis model");

    address internal admin = makeAddr("admin");
    address internal registrar = makeAddr("registrar");
    address internal sponsor = makeAddr("sponsor");
    address internal guardian = makeAddr("guardian");
    address internal relayer = makeAddr("relayer");
    address internal stranger = makeAddr("stranger");

    AggregatorCommittee internal committee;
    DeviceRegistry internal devices;
    ModelRegistry internal models;
    RewardDistributor internal rewards;
    FedgeDemoToken internal token;

    /// @dev Private key of every committee member that has one.
    mapping(address member => uint256 key) internal keyOf;
    address[] internal memberList;

    function setUp() public virtual {
        vm.warp(START);
        memberList = _newMembers("member", 5);
        committee = new AggregatorCommittee(ADMIN_DELAY, admin, memberList, THRESHOLD);
        devices = new DeviceRegistry(ADMIN_DELAY, admin, PAYOUT_DELAY);
        models = new ModelRegistry(ADMIN_DELAY, admin, committee);
        rewards = new RewardDistributor(ADMIN_DELAY, admin, committee, models, devices, ACTIVATION_DELAY, CLOSE_GRACE);
        token = new FedgeDemoToken(address(this));

        vm.startPrank(admin);
        devices.grantRole(devices.REGISTRAR_ROLE(), registrar);
        models.grantRole(models.JOB_CREATOR_ROLE(), sponsor);
        rewards.grantRole(rewards.GUARDIAN_ROLE(), guardian);
        vm.stopPrank();

        vm.startPrank(sponsor);
        models.createJob(JOB, SPEC, GENESIS_MODEL);
        rewards.createPool(JOB, token);
        vm.stopPrank();
    }

    // ---------------------------------------------------------------------------------------------- committee

    /// @dev `count` accounts with keys, ascending.
    function _newMembers(string memory prefix, uint256 count) internal returns (address[] memory list) {
        list = new address[](count);
        for (uint256 i = 0; i < count; ++i) {
            (address member, uint256 key) = makeAddrAndKey(string.concat(prefix, vm.toString(i)));
            keyOf[member] = key;
            uint256 place = i;
            for (; place > 0 && list[place - 1] > member; --place) {
                list[place] = list[place - 1];
            }
            list[place] = member;
        }
    }

    function _signature(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    /// @dev Entry of `AggregatorCommittee.verify`.
    function _entry(address member, bytes32 digest) internal view returns (bytes memory) {
        return abi.encodePacked(member, _signature(keyOf[member], digest));
    }

    /// @dev Entries of the first `count` members.
    function _attest(bytes32 digest, uint256 count) internal view returns (bytes[] memory entries) {
        entries = new bytes[](count);
        for (uint256 i = 0; i < count; ++i) {
            entries[i] = _entry(memberList[i], digest);
        }
    }

    // ------------------------------------------------------------------------------------------------ devices

    function _binding(string memory name, address payout)
        internal
        returns (IDeviceRegistry.DeviceBinding memory binding, bytes memory signature)
    {
        (address device, uint256 key) = makeAddrAndKey(name);
        binding = IDeviceRegistry.DeviceBinding({
            deviceId: keccak256(bytes(name)),
            device: device,
            payout: payout,
            nonce: keccak256(abi.encode("nonce", name)),
            notAfter: uint64(block.timestamp + 1 hours)
        });
        signature = _signature(key, devices.bindingDigest(binding));
    }

    function _register(string memory name, address payout) internal returns (address device) {
        (IDeviceRegistry.DeviceBinding memory binding, bytes memory signature) = _binding(name, payout);
        vm.prank(registrar);
        devices.register(binding, signature);
        return binding.device;
    }

    // ------------------------------------------------------------------------------------------------- models

    /// @dev The checkpoint that continues the job's chain.
    function _nextCheckpoint(bytes32 jobId) internal view returns (IModelRegistry.Checkpoint memory) {
        (, uint64 round,, bytes32 head,) = models.jobs(jobId);
        return IModelRegistry.Checkpoint({
            jobId: jobId,
            round: round + 1,
            parent: head,
            modelHash: keccak256(abi.encode("model", round)),
            aggregateHash: keccak256(abi.encode("aggregate", round)),
            cohortRoot: keccak256(abi.encode("cohort", round)),
            participationRoot: keccak256(abi.encode("participation", round)),
            metricsHash: keccak256(abi.encode("metrics", round)),
            participants: 20,
            totalWeight: 400
        });
    }

    // ------------------------------------------------------------------------------------------------ rewards

    function _fund(bytes32 jobId, uint128 amount) internal {
        token.mint(sponsor, amount);
        vm.startPrank(sponsor);
        token.approve(address(rewards), amount);
        rewards.fund(jobId, amount);
        vm.stopPrank();
    }

    function _reward(bytes32 jobId, uint64 epoch, bytes32 root, uint128 total)
        internal
        pure
        returns (IRewardDistributor.RewardRoot memory)
    {
        return IRewardDistributor.RewardRoot({
            jobId: jobId, epoch: epoch, root: root, total: total, dataHash: keccak256(abi.encode("data", epoch))
        });
    }

    function _propose(IRewardDistributor.RewardRoot memory reward) internal {
        bytes[] memory signatures = _attest(rewards.rewardRootDigest(reward), THRESHOLD);
        vm.prank(relayer);
        rewards.proposeRoot(reward, signatures);
    }

    /// @dev Tree over `amounts[i]` for `accounts[i]`.
    function _tree(bytes32 jobId, address[] memory accounts, uint256[] memory amounts)
        internal
        view
        returns (bytes32[] memory nodes)
    {
        bytes32[] memory leaves = new bytes32[](accounts.length);
        for (uint256 i = 0; i < accounts.length; ++i) {
            leaves[i] = rewards.leafOf(jobId, accounts[i], amounts[i]);
        }
        return leaves.build();
    }

    /// @dev Proposes and activates the next root; the declared total is the sum of `amounts`.
    function _settle(bytes32 jobId, address[] memory accounts, uint256[] memory amounts)
        internal
        returns (bytes32[] memory nodes)
    {
        nodes = _tree(jobId, accounts, amounts);
        uint256 total = 0;
        for (uint256 i = 0; i < amounts.length; ++i) {
            total += amounts[i];
        }
        _propose(_reward(jobId, rewards.pools(jobId).pending.epoch + 1, nodes[0], uint128(total)));
        skip(ACTIVATION_DELAY);
    }

    /// @dev Addresses derived from `prefix`.
    function _accounts(string memory prefix, uint256 count) internal returns (address[] memory accounts) {
        accounts = new address[](count);
        for (uint256 i = 0; i < count; ++i) {
            accounts[i] = makeAddr(string.concat(prefix, vm.toString(i)));
        }
    }

    /// @dev 100 tokens times (index + 1), times `scale`.
    function _amounts(uint256 count, uint256 scale) internal pure returns (uint256[] memory amounts) {
        amounts = new uint256[](count);
        for (uint256 i = 0; i < count; ++i) {
            amounts[i] = 100e18 * (i + 1) * scale;
        }
    }

    // -------------------------------------------------------------------------------------------------- roles

    function _expectMissingRole(address account, bytes32 role) internal {
        vm.expectRevert(abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, account, role));
    }

    /// @dev EIP-712 digest in the domain of `verifyingContract`, from first principles.
    function _digest(address verifyingContract, bytes32 structHash) internal view returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Fedge"),
                keccak256("1"),
                block.chainid,
                verifyingContract
            )
        );
        return MessageHashUtils.toTypedDataHash(domain, structHash);
    }
}
