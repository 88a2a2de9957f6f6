// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {DeviceRegistry} from "../../src/DeviceRegistry.sol";
import {IDeviceRegistry} from "../../src/interfaces/IDeviceRegistry.sol";
import {BaseTest} from "../support/BaseTest.sol";
import {SmartWallet} from "../support/SmartWallet.sol";

contract RegisterTest is BaseTest {
    address private owner = makeAddr("device owner");

    function test_Constructor_SetsDelay() public view {
        assertEq(devices.PAYOUT_DELAY(), PAYOUT_DELAY);
        assertEq(devices.REGISTRAR_ROLE(), keccak256("REGISTRAR_ROLE"));
    }

    function test_RevertWhen_PayoutDelayIsTooLong() public {
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.PayoutDelayTooLong.selector, 30 days + 1, 30 days));
        new DeviceRegistry(ADMIN_DELAY, admin, 30 days + 1);
    }

    function test_Register_RecordsDevice() public {
        (IDeviceRegistry.DeviceBinding memory binding, bytes memory signature) = _binding("pump", owner);

        vm.expectEmit(address(devices));
        emit IDeviceRegistry.DeviceRegistered(binding.device, binding.deviceId, owner, registrar, binding.nonce);
        vm.prank(registrar);
        devices.register(binding, signature);

        IDeviceRegistry.Device memory device = devices.devices(binding.device);
        assertEq(device.deviceId, binding.deviceId);
        assertEq(uint8(device.status), uint8(IDeviceRegistry.Status.Active));
        assertEq(device.registeredAt, START);
        assertEq(device.payout, owner);
        assertEq(device.pendingPayout, address(0));
        assertEq(device.pendingAt, 0);
        assertEq(device.payoutNonce, 0);
        assertEq(devices.deviceOf(binding.deviceId), binding.device);
        assertEq(uint8(devices.status(binding.device)), uint8(IDeviceRegistry.Status.Active));
        assertEq(devices.recipientOf(binding.device), owner);
    }

    function test_Register_AcceptsTheLastSecond() public {
        (IDeviceRegistry.DeviceBinding memory binding, bytes memory signature) = _binding("pump", owner);
        vm.warp(binding.notAfter);
        vm.prank(registrar);
        devices.register(binding, signature);
    }

    function test_Register_AcceptsErc1271Device() public {
        (IDeviceRegistry.DeviceBinding memory binding,) = _binding("pump", owner);
        (address key, uint256 secret) = makeAddrAndKey("wallet key");
        binding.device = address(new SmartWallet(key));
        bytes memory signature = _signature(secret, devices.bindingDigest(binding));
        vm.prank(registrar);
        devices.register(binding, signature);
    }

    function test_Register_BindsIdentityAgainAfterRevocation() public {
        address first = _register("pump", owner);
        vm.prank(registrar);
        devices.revoke(first, "lost");
        (IDeviceRegistry.DeviceBinding memory binding,) = _binding("pump, repaired", owner);
        binding.deviceId = keccak256("pump");
        (, uint256 key) = makeAddrAndKey("pump, repaired");
        bytes memory signature = _signature(key, devices.bindingDigest(binding));

        vm.prank(registrar);
        devices.register(binding, signature);

        assertEq(devices.deviceOf(binding.deviceId), binding.device);
        assertEq(devices.devices(first).deviceId, binding.deviceId);
    }

    function test_RecipientOf_IsTheAccountItselfWhenUnknown() public view {
        assertEq(devices.recipientOf(stranger), stranger);
        assertEq(uint8(devices.status(stranger)), uint8(IDeviceRegistry.Status.None));
    }

    function testFuzz_Register_VerifiesEveryField(uint8 field, uint64 mask) public {
        (IDeviceRegistry.DeviceBinding memory binding, bytes memory signature) = _binding("pump", owner);
        field = field % 4;
        mask = uint64(bound(mask, 1, type(uint32).max));
        if (field == 0) binding.deviceId ^= bytes32(uint256(mask));
        if (field == 1) binding.payout = address(uint160(binding.payout) ^ mask);
        if (field == 2) binding.nonce ^= bytes32(uint256(mask));
        if (field == 3) binding.notAfter += mask;
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.InvalidDeviceSignature.selector, binding.device));
        vm.prank(registrar);
        devices.register(binding, signature);
    }

    function test_RegisterMany_RegistersAll() public {
        (IDeviceRegistry.DeviceBinding[] memory bindings, bytes[] memory signatures) = _two();
        vm.prank(registrar);
        devices.registerMany(bindings, signatures);
        assertEq(devices.recipientOf(bindings[0].device), owner);
        assertEq(devices.recipientOf(bindings[1].device), owner);
    }

    function test_RegisterMany_IsAllOrNothing() public {
        (IDeviceRegistry.DeviceBinding[] memory bindings, bytes[] memory signatures) = _two();
        signatures[1] = signatures[0];
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.InvalidDeviceSignature.selector, bindings[1].device));
        vm.prank(registrar);
        devices.registerMany(bindings, signatures);
        assertEq(uint8(devices.status(bindings[0].device)), uint8(IDeviceRegistry.Status.None));
    }

    function test_RevertWhen_LengthsDiffer() public {
        (IDeviceRegistry.DeviceBinding[] memory bindings,) = _two();
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.LengthMismatch.selector, 2, 1));
        vm.prank(registrar);
        devices.registerMany(bindings, new bytes[](1));
    }

    function test_RevertWhen_CallerIsNoRegistrar() public {
        (IDeviceRegistry.DeviceBinding memory binding, bytes memory signature) = _binding("pump", owner);
        bytes32 role = devices.REGISTRAR_ROLE();
        _expectMissingRole(admin, role);
        vm.prank(admin);
        devices.register(binding, signature);

        _expectMissingRole(stranger, role);
        vm.prank(stranger);
        devices.registerMany(new IDeviceRegistry.DeviceBinding[](0), new bytes[](0));
    }

    function test_RevertWhen_AFieldIsZero() public {
        (IDeviceRegistry.DeviceBinding memory good, bytes memory signature) = _binding("pump", owner);
        for (uint256 i = 0; i < 3; ++i) {
            IDeviceRegistry.DeviceBinding memory binding = abi.decode(abi.encode(good), (IDeviceRegistry.DeviceBinding));
            if (i == 0) binding.deviceId = 0;
            if (i == 1) binding.device = address(0);
            if (i == 2) binding.payout = address(0);
            vm.expectRevert(IDeviceRegistry.ZeroField.selector);
            vm.prank(registrar);
            devices.register(binding, signature);
        }
    }

    function test_RevertWhen_BindingIsTooOld() public {
        (IDeviceRegistry.DeviceBinding memory binding, bytes memory signature) = _binding("pump", owner);
        vm.warp(uint256(binding.notAfter) + 1);
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.SignatureExpired.selector, binding.notAfter));
        vm.prank(registrar);
        devices.register(binding, signature);
    }

    function test_RevertWhen_DeviceIsKnown() public {
        (IDeviceRegistry.DeviceBinding memory binding, bytes memory signature) = _binding("pump", owner);
        vm.startPrank(registrar);
        devices.register(binding, signature);
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.DeviceKnown.selector, binding.device));
        devices.register(binding, signature);

        devices.revoke(binding.device, "stolen");
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.DeviceKnown.selector, binding.device));
        devices.register(binding, signature);
        vm.stopPrank();
    }

    function test_RevertWhen_IdentityIsBoundToAnActiveDevice() public {
        address first = _register("pump", owner);
        (IDeviceRegistry.DeviceBinding memory binding,) = _binding("clone", owner);
        binding.deviceId = keccak256("pump");
        (, uint256 key) = makeAddrAndKey("clone");
        bytes memory signature = _signature(key, devices.bindingDigest(binding));
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.DeviceIdBound.selector, binding.deviceId, first));
        vm.prank(registrar);
        devices.register(binding, signature);
    }

    function test_RevertWhen_BindingIsForAnotherRegistry() public {
        DeviceRegistry other = new DeviceRegistry(ADMIN_DELAY, address(this), PAYOUT_DELAY);
        other.grantRole(other.REGISTRAR_ROLE(), address(this));
        (IDeviceRegistry.DeviceBinding memory binding, bytes memory signature) = _binding("pump", owner);
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.InvalidDeviceSignature.selector, binding.device));
        other.register(binding, signature);
    }

    function test_RevertWhen_BindingIsForAnotherChain() public {
        (IDeviceRegistry.DeviceBinding memory binding, bytes memory signature) = _binding("pump", owner);
        vm.chainId(block.chainid + 1);
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.InvalidDeviceSignature.selector, binding.device));
        vm.prank(registrar);
        devices.register(binding, signature);
    }

    function _two() private returns (IDeviceRegistry.DeviceBinding[] memory bindings, bytes[] memory signatures) {
        bindings = new IDeviceRegistry.DeviceBinding[](2);
        signatures = new bytes[](2);
        (bindings[0], signatures[0]) = _binding("pump", owner);
        (bindings[1], signatures[1]) = _binding("valve", owner);
    }
}
