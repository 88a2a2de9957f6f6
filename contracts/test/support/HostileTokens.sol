// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @title Keeps 1 % of every transfer
contract FeeToken is ERC20("Fee", "FEE") {
    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function _update(address from, address to, uint256 value) internal override {
        uint256 fee = from == address(0) || to == address(0) ? 0 : value / 100;
        super._update(from, to, value - fee);
        if (fee != 0) super._update(from, address(0), fee);
    }
}

/// @title Refuses transfers to listed accounts
contract BlockingToken is ERC20("Blocking", "BLOCK") {
    error Blocked(address account);

    mapping(address account => bool blocked) public isBlocked;

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function setBlocked(address account, bool blocked) external {
        isBlocked[account] = blocked;
    }

    function _update(address from, address to, uint256 value) internal override {
        if (isBlocked[to]) revert Blocked(to);
        super._update(from, to, value);
    }
}

/// @title Calls back into a target on every transfer, as ERC-777 hooks do, and records what came of it
contract HookToken is ERC20("Hook", "HOOK") {
    address public target;
    bytes public payload;
    bool public called;
    bool public succeeded;
    bytes public answer;

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function arm(address newTarget, bytes calldata newPayload) external {
        target = newTarget;
        payload = newPayload;
    }

    function _update(address from, address to, uint256 value) internal override {
        super._update(from, to, value);
        if (target != address(0) && from != address(0)) {
            called = true;
            (succeeded, answer) = target.call(payload);
        }
    }
}
