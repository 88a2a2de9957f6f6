// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IDeviceRegistry} from "../../src/interfaces/IDeviceRegistry.sol";
import {BaseTest} from "../support/BaseTest.sol";

contract PayoutTest is BaseTest {
    address private owner = makeAddr("device owner");
    address private next = makeAddr("next payout");
    address private device;
    uint256 private deviceKey;

    function setUp() public override {
        super.setUp();
        device = _register("pump", owner);
        (, deviceKey) = makeAddrAndKey("pump");
    }

    function test_ProposePayout_TakesEffectAfterTheDelay() public {
        vm.expectEmit(address(devices));
        emit IDeviceRegistry.PayoutProposed(device, next, uint64(START) + PAYOUT_DELAY);
        vm.prank(owner);
        devices.proposePayout(device, next);

        skip(PAYOUT_DELAY - 1);
        assertEq(devices.recipientOf(device), owner);
        assertEq(devices.devices(device).pendingPayout, next);
        assertEq(devices.devices(device).pendingAt, START + PAYOUT_DELAY);

        skip(1);
        assertEq(devices.recipientOf(device), next);
        assertEq(devices.devices(device).payout, next);
        assertEq(devices.devices(device).pendingPayout, address(0));
        assertEq(devices.devices(device).pendingAt, 0);
    }

    function test_ProposePayout_MovesAuthorityToTheNewAccount() public {
        vm.prank(owner);
        devices.proposePayout(device, next);
        skip(PAYOUT_DELAY);

        vm.prank(next);
        devices.proposePayout(device, stranger);
        assertEq(devices.recipientOf(device), next, "a matured change survives the next announcement");

        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.NotPayoutAuthority.selector, owner, device));
        vm.prank(owner);
        devices.cancelPayout(device);
    }

    function test_ProposePayout_ReplacesAnAnnouncementAndRestartsTheDelay() public {
        vm.prank(owner);
        devices.proposePayout(device, stranger);
        skip(PAYOUT_DELAY - 1);
        vm.prank(device);
        devices.proposePayout(device, next);
        skip(1);
        assertEq(devices.recipientOf(device), owner);
        skip(PAYOUT_DELAY - 1);
        assertEq(devices.recipientOf(device), next);
    }

    function test_ProposePayoutBySignature_IsCarriedByAnyone() public {
        bytes memory signature = _payoutSignature(next, 0, uint64(START));

        vm.expectEmit(address(devices));
        emit IDeviceRegistry.PayoutProposed(device, next, uint64(START) + PAYOUT_DELAY);
        vm.prank(relayer);
        devices.proposePayoutBySignature(device, next, uint64(START), signature);

        assertEq(devices.devices(device).payoutNonce, 1);
        skip(PAYOUT_DELAY);
        assertEq(devices.recipientOf(device), next);
    }

    function test_CancelPayout_ByOwnerStopsAStolenDeviceKey() public {
        vm.prank(device);
        devices.proposePayout(device, stranger);

        vm.expectEmit(address(devices));
        emit IDeviceRegistry.PayoutCancelled(device, stranger);
        vm.prank(owner);
        devices.cancelPayout(device);

        skip(PAYOUT_DELAY);
        assertEq(devices.recipientOf(device), owner);
    }

    function test_CancelPayout_ByDevice() public {
        vm.startPrank(device);
        devices.proposePayout(device, next);
        devices.cancelPayout(device);
        vm.stopPrank();
        skip(PAYOUT_DELAY);
        assertEq(devices.recipientOf(device), owner);
    }

    function test_Revoked_OwnerMayStillMoveThePayout() public {
        vm.prank(registrar);
        devices.revoke(device, "retired");
        vm.prank(owner);
        devices.proposePayout(device, next);
        skip(PAYOUT_DELAY);
        assertEq(devices.recipientOf(device), next);
    }

    function test_RevertWhen_RevokedDeviceUsesItsKey() public {
        bytes memory signature = _payoutSignature(next, 0, uint64(START));
        vm.prank(device);
        devices.proposePayout(device, next);
        vm.prank(registrar);
        devices.revoke(device, "stolen");

        bytes memory refused = abi.encodeWithSelector(IDeviceRegistry.NotPayoutAuthority.selector, device, device);
        vm.startPrank(device);
        vm.expectRevert(refused);
        devices.proposePayout(device, stranger);
        vm.expectRevert(refused);
        devices.cancelPayout(device);
        vm.stopPrank();
        vm.expectRevert(
            abi.encodeWithSelector(IDeviceRegistry.DeviceNotActive.selector, device, IDeviceRegistry.Status.Revoked)
        );
        devices.proposePayoutBySignature(device, next, uint64(START), signature);
    }

    function test_RevertWhen_CallerHasNoAuthority() public {
        address[3] memory callers = [stranger, registrar, admin];
        for (uint256 i = 0; i < callers.length; ++i) {
            bytes memory refused =
                abi.encodeWithSelector(IDeviceRegistry.NotPayoutAuthority.selector, callers[i], device);
            vm.startPrank(callers[i]);
            vm.expectRevert(refused);
            devices.proposePayout(device, callers[i]);
            vm.expectRevert(refused);
            devices.cancelPayout(device);
            vm.stopPrank();
        }
    }

    function test_RevertWhen_DeviceIsUnknown() public {
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.NotPayoutAuthority.selector, stranger, stranger));
        vm.prank(stranger);
        devices.proposePayout(stranger, next);
    }

    function test_RevertWhen_PayoutIsZero() public {
        vm.expectRevert(IDeviceRegistry.ZeroField.selector);
        vm.prank(owner);
        devices.proposePayout(device, address(0));
    }

    function test_RevertWhen_NothingIsPending() public {
        vm.startPrank(owner);
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.NoPendingPayout.selector, device));
        devices.cancelPayout(device);

        devices.proposePayout(device, owner);
        skip(PAYOUT_DELAY);
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.NoPendingPayout.selector, device));
        devices.cancelPayout(device);
        vm.stopPrank();
    }

    function test_RevertWhen_SignatureIsReplayed() public {
        bytes memory signature = _payoutSignature(next, 0, uint64(START));
        devices.proposePayoutBySignature(device, next, uint64(START), signature);
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.InvalidDeviceSignature.selector, device));
        devices.proposePayoutBySignature(device, next, uint64(START), signature);
    }

    function test_RevertWhen_SignatureIsTooOld() public {
        bytes memory signature = _payoutSignature(next, 0, uint64(START));
        skip(1);
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.SignatureExpired.selector, START));
        devices.proposePayoutBySignature(device, next, uint64(START), signature);
    }

    function testFuzz_RevertWhen_SignedPayoutIsAnother(address payout) public {
        vm.assume(payout != next && payout != address(0));
        bytes memory signature = _payoutSignature(next, 0, uint64(START));
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.InvalidDeviceSignature.selector, device));
        devices.proposePayoutBySignature(device, payout, uint64(START), signature);
    }

    function _payoutSignature(address payout, uint64 nonce, uint64 notAfter) private view returns (bytes memory) {
        bytes32 typehash = keccak256("PayoutChange(address device,address payout,uint64 nonce,uint64 notAfter)");
        bytes32 structHash = keccak256(abi.encode(typehash, device, payout, nonce, notAfter));
        return _signature(deviceKey, _digest(address(devices), structHash));
    }
}
