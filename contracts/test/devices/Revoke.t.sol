// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IDeviceRegistry} from "../../src/interfaces/IDeviceRegistry.sol";
import {BaseTest} from "../support/BaseTest.sol";

contract RevokeTest is BaseTest {
    address private owner = makeAddr("device owner");

    function test_Revoke_ShutsOutButKeepsRecipient() public {
        address device = _register("pump", owner);

        vm.expectEmit(address(devices));
        emit IDeviceRegistry.DeviceRevoked(device, keccak256("pump"), "stolen");
        vm.prank(registrar);
        devices.revoke(device, "stolen");

        assertEq(uint8(devices.status(device)), uint8(IDeviceRegistry.Status.Revoked));
        assertEq(devices.recipientOf(device), owner);
    }

    function test_RevertWhen_CallerIsNoRegistrar() public {
        address device = _register("pump", owner);
        _expectMissingRole(owner, devices.REGISTRAR_ROLE());
        vm.prank(owner);
        devices.revoke(device, "mine");
    }

    function test_RevertWhen_DeviceIsUnknown() public {
        vm.expectRevert(
            abi.encodeWithSelector(IDeviceRegistry.DeviceNotActive.selector, stranger, IDeviceRegistry.Status.None)
        );
        vm.prank(registrar);
        devices.revoke(stranger, "");
    }

    function test_RevertWhen_DeviceIsRevokedAlready() public {
        address device = _register("pump", owner);
        vm.startPrank(registrar);
        devices.revoke(device, "");
        vm.expectRevert(
            abi.encodeWithSelector(IDeviceRegistry.DeviceNotActive.selector, device, IDeviceRegistry.Status.Revoked)
        );
        devices.revoke(device, "");
        vm.stopPrank();
    }
}
