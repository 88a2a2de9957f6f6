// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AggregatorCommittee} from "../../src/AggregatorCommittee.sol";
import {IAggregatorCommittee} from "../../src/interfaces/IAggregatorCommittee.sol";
import {BaseTest} from "../support/BaseTest.sol";

contract SetCommitteeTest is BaseTest {
    function test_Constructor_SetsMembersAndThreshold() public view {
        assertEq(committee.members(), memberList);
        assertEq(committee.threshold(), THRESHOLD);
        assertTrue(committee.isMember(memberList[0]));
        assertFalse(committee.isMember(stranger));
        assertEq(committee.owner(), admin);
    }

    function test_SetCommittee_ReplacesAllMembers() public {
        address[] memory next = _newMembers("next", 2);

        vm.expectEmit(address(committee));
        emit IAggregatorCommittee.CommitteeChanged(next, 2);
        vm.prank(admin);
        committee.setCommittee(next, 2);

        assertEq(committee.members(), next);
        assertEq(committee.threshold(), 2);
        assertTrue(committee.isMember(next[0]) && committee.isMember(next[1]));
        for (uint256 i = 0; i < memberList.length; ++i) {
            assertFalse(committee.isMember(memberList[i]));
        }
    }

    function test_SetCommittee_KeepsMemberNamedAgain() public {
        address[] memory next = new address[](1);
        next[0] = memberList[2];

        vm.prank(admin);
        committee.setCommittee(next, 1);

        assertTrue(committee.isMember(memberList[2]));
        assertFalse(committee.isMember(memberList[1]));
    }

    function test_SetCommittee_TakesTheLargestCommittee() public {
        address[] memory many = _newMembers("many", committee.MAX_MEMBERS());

        vm.prank(admin);
        committee.setCommittee(many, many.length);

        assertEq(committee.members().length, 64);
    }

    function test_RevertWhen_CallerIsNotAdmin() public {
        bytes32 role = committee.DEFAULT_ADMIN_ROLE();
        _expectMissingRole(stranger, role);
        vm.prank(stranger);
        committee.setCommittee(memberList, 1);
    }

    function test_RevertWhen_ThresholdIsZero() public {
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.InvalidThreshold.selector, 0, 5));
        vm.prank(admin);
        committee.setCommittee(memberList, 0);
    }

    function test_RevertWhen_ThresholdExceedsMembers() public {
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.InvalidThreshold.selector, 6, 5));
        vm.prank(admin);
        committee.setCommittee(memberList, 6);
    }

    function test_RevertWhen_CommitteeIsEmpty() public {
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.InvalidThreshold.selector, 1, 0));
        new AggregatorCommittee(ADMIN_DELAY, admin, new address[](0), 1);
    }

    function test_RevertWhen_MembersDescend() public {
        address[] memory wrong = memberList;
        (wrong[0], wrong[1]) = (wrong[1], wrong[0]);
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.NotAscending.selector, wrong[0], wrong[1]));
        vm.prank(admin);
        committee.setCommittee(wrong, 1);
    }

    function test_RevertWhen_MemberIsNamedTwice() public {
        address[] memory wrong = memberList;
        wrong[1] = wrong[0];
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.NotAscending.selector, wrong[0], wrong[0]));
        vm.prank(admin);
        committee.setCommittee(wrong, 1);
    }

    function test_RevertWhen_MemberIsZero() public {
        address[] memory wrong = memberList;
        wrong[0] = address(0);
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.NotAscending.selector, address(0), address(0)));
        vm.prank(admin);
        committee.setCommittee(wrong, 1);
    }

    function test_RevertWhen_TooManyMembers() public {
        address[] memory many = _newMembers("many", 65);
        vm.expectRevert(abi.encodeWithSelector(IAggregatorCommittee.TooManyMembers.selector, 65, 64));
        vm.prank(admin);
        committee.setCommittee(many, 1);
    }
}
