// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

/// @title participation-v1 in integers: what the coordinator and every auditor compute off-chain
/// @dev Accounts ascending. Quadratic in the number of accounts; for tests only.
library Split {
    function participation(uint256 budget, uint256[] memory weights) internal pure returns (uint256[] memory shares) {
        uint256 count = weights.length;
        uint256 totalWeight = 0;
        for (uint256 i = 0; i < count; ++i) {
            totalWeight += weights[i];
        }
        shares = new uint256[](count);
        uint256[] memory remainders = new uint256[](count);
        uint256 left = budget;
        for (uint256 i = 0; i < count; ++i) {
            shares[i] = Math.mulDiv(budget, weights[i], totalWeight);
            remainders[i] = mulmod(budget, weights[i], totalWeight);
            left -= shares[i];
        }
        bool[] memory served = new bool[](count);
        for (; left > 0; --left) {
            uint256 best = count;
            for (uint256 i = 0; i < count; ++i) {
                if (!served[i] && (best == count || remainders[i] > remainders[best])) best = i;
            }
            served[best] = true;
            ++shares[best];
        }
    }
}
