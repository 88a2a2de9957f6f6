// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {
    AccessControlDefaultAdminRules
} from "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";
import {
    IAccessControlDefaultAdminRules
} from "@openzeppelin/contracts/access/extensions/IAccessControlDefaultAdminRules.sol";
import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

import {FedgeTimelock} from "../../src/governance/FedgeTimelock.sol";
import {BaseTest} from "../support/BaseTest.sol";

/// @notice What every contract with an admin promises, and the timelock as admin.
contract AdminTest is BaseTest {
    address private next = makeAddr("next admin");
    AccessControlDefaultAdminRules[4] private governed;

    function setUp() public override {
        super.setUp();
        governed = [
            AccessControlDefaultAdminRules(address(committee)),
            AccessControlDefaultAdminRules(address(devices)),
            AccessControlDefaultAdminRules(address(models)),
            AccessControlDefaultAdminRules(address(rewards))
        ];
    }

    function test_Admin_ChangesInTwoStepsAfterTheDelay() public {
        for (uint256 i = 0; i < 4; ++i) {
            assertEq(governed[i].owner(), admin);
            assertEq(governed[i].defaultAdminDelay(), ADMIN_DELAY);
            uint256 schedule = block.timestamp + ADMIN_DELAY;
            vm.prank(admin);
            governed[i].beginDefaultAdminTransfer(next);

            vm.warp(schedule);
            vm.expectRevert(
                abi.encodeWithSelector(
                    IAccessControlDefaultAdminRules.AccessControlEnforcedDefaultAdminDelay.selector, schedule
                )
            );
            vm.prank(next);
            governed[i].acceptDefaultAdminTransfer();

            vm.warp(schedule + 1);
            vm.prank(next);
            governed[i].acceptDefaultAdminTransfer();
            assertEq(governed[i].owner(), next);
            assertFalse(governed[i].hasRole(0, admin));
        }
    }

    function test_RevertWhen_AdminRoleIsGrantedDirectly() public {
        for (uint256 i = 0; i < 4; ++i) {
            vm.expectRevert(IAccessControlDefaultAdminRules.AccessControlEnforcedDefaultAdminRules.selector);
            vm.prank(admin);
            governed[i].grantRole(0, next);
        }
    }

    function test_RevertWhen_AStrangerGrantsARole() public {
        bytes32[4] memory roles =
            [bytes32("any"), devices.REGISTRAR_ROLE(), models.JOB_CREATOR_ROLE(), rewards.GUARDIAN_ROLE()];
        for (uint256 i = 0; i < 4; ++i) {
            _expectMissingRole(stranger, 0);
            vm.prank(stranger);
            governed[i].grantRole(roles[i], stranger);
        }
    }

    function test_Role_IsTakenAwayByTheAdmin() public {
        bytes32 role = devices.REGISTRAR_ROLE();
        vm.prank(admin);
        devices.revokeRole(role, registrar);
        _expectMissingRole(registrar, role);
        vm.prank(registrar);
        devices.revoke(stranger, "");
    }

    function test_RevertWhen_AdminIsZero() public {
        vm.expectRevert(
            abi.encodeWithSelector(
                IAccessControlDefaultAdminRules.AccessControlInvalidDefaultAdmin.selector, address(0)
            )
        );
        deployCode("DeviceRegistry.sol", abi.encode(ADMIN_DELAY, address(0), PAYOUT_DELAY));
    }

    function test_Timelock_ChangesTheCommitteeOnlyAfterItsDelay() public {
        address[] memory proposers = new address[](1);
        proposers[0] = admin;
        FedgeTimelock timelock = new FedgeTimelock(5 days, proposers, new address[](1));
        vm.prank(admin);
        committee.beginDefaultAdminTransfer(address(timelock));
        skip(ADMIN_DELAY + 1);
        vm.prank(address(timelock));
        committee.acceptDefaultAdminTransfer();

        bytes memory call = abi.encodeCall(committee.setCommittee, (memberList, 5));
        vm.prank(admin);
        timelock.schedule(address(committee), 0, call, 0, 0, 5 days);
        skip(5 days - 1);
        vm.expectPartialRevert(bytes4(keccak256("TimelockUnexpectedOperationState(bytes32,bytes32)")));
        timelock.execute(address(committee), 0, call, 0, 0);
        skip(1);
        vm.prank(stranger);
        timelock.execute(address(committee), 0, call, 0, 0);

        assertEq(committee.threshold(), 5);
        assertFalse(timelock.hasRole(0, admin), "nobody but the timelock itself administers it");
    }

    function test_DemoToken_IsMintedByItsOwnerOnly() public {
        assertEq(token.decimals(), 18);
        assertEq(token.symbol(), "FDEMO");
        token.mint(stranger, 5);
        assertEq(token.balanceOf(stranger), 5);
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, stranger));
        vm.prank(stranger);
        token.mint(stranger, 5);
    }

    function test_SupportsInterface() public view {
        for (uint256 i = 0; i < 4; ++i) {
            assertTrue(governed[i].supportsInterface(type(IAccessControl).interfaceId));
            assertTrue(governed[i].supportsInterface(type(IAccessControlDefaultAdminRules).interfaceId));
        }
    }
}
