// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @title FedgeDemoToken
/// @notice A token for demonstrations and tests: its owner mints at will, so it must never stand for value.
contract FedgeDemoToken is ERC20, Ownable {
    /// @param owner Who may mint.
    constructor(address owner) ERC20("Fedge Demo", "FDEMO") Ownable(owner) {}

    /// @notice Makes `amount` new units (18 decimals) for `to`. Only the owner.
    function mint(address to, uint256 amount) external onlyOwner {
        _mint(to, amount);
    }
}
