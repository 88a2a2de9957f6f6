// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";

/// @title FedgeTimelock
/// @notice OpenZeppelin's timelock, shipped as the admin of the other contracts: what it does is visible beforehand.
contract FedgeTimelock is TimelockController {
    /// @param minDelay Seconds between scheduling and execution.
    /// @param proposers Who may schedule and cancel.
    /// @param executors Who may execute what is due; the zero address opens this to everybody.
    constructor(uint256 minDelay, address[] memory proposers, address[] memory executors)
        TimelockController(minDelay, proposers, executors, address(0))
    {}
}
