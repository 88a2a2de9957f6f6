// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {CommonBase} from "forge-std/Base.sol";
import {StdUtils} from "forge-std/StdUtils.sol";

import {RewardDistributor} from "../../src/RewardDistributor.sol";
import {FedgeDemoToken} from "../../src/demo/FedgeDemoToken.sol";
import {IRewardDistributor} from "../../src/interfaces/IRewardDistributor.sol";
import {StandardTree} from "../support/StandardTree.sol";

/// @title Drives two jobs that share one token, with a committee that sometimes lies and a guardian that sometimes acts
/// @dev Every action brings about what it needs (funds, a root, the right time), so nearly all of them succeed. Actions
/// that must fail are tried under `_mustFail`, which counts a breach when they do not.
contract RewardHandler is CommonBase, StdUtils {
    using StandardTree for bytes32[];

    uint256 public constant JOBS = 2;
    uint256 public constant ACCOUNTS = 5;
    uint256 private constant UNIT = 1e18;

    struct Book {
        uint256 funded;
        uint256 withdrawn;
        uint256 declared;
        uint256[5] active;
        uint256[5] pending;
        uint64 pendingAt;
    }

    RewardDistributor public immutable REWARDS;
    FedgeDemoToken public immutable TOKEN;
    address private immutable SPONSOR;
    address private immutable GUARDIAN;
    uint256 private immutable COMMITTEE_KEY;

    bytes32[2] public jobs;
    address[5] public accounts;
    uint256 public donated;
    uint256 public attempts;
    uint256 public successes;
    uint256 public claims;
    uint256 public breaches;
    mapping(bytes32 jobId => mapping(address account => uint256 cumulative)) public paid;

    Book[2] private _books;

    constructor(
        RewardDistributor rewards,
        FedgeDemoToken token,
        address sponsor,
        address guardian,
        uint256 committeeKey,
        bytes32[2] memory jobIds
    ) {
        REWARDS = rewards;
        TOKEN = token;
        SPONSOR = sponsor;
        GUARDIAN = guardian;
        COMMITTEE_KEY = committeeKey;
        jobs = jobIds;
        for (uint256 i = 0; i < ACCOUNTS; ++i) {
            accounts[i] = vm.addr(1000 + i);
        }
    }

    // ------------------------------------------------------------------------------------------------ actions

    function fund(uint256 job, uint256 amount) external {
        ++attempts;
        job = job % JOBS;
        if (REWARDS.pools(jobs[job]).closedAt != 0) return;
        _fund(job, bound(amount, 1, 1000 * UNIT));
        ++successes;
    }

    function donate(uint256 amount) external {
        ++attempts;
        amount = bound(amount, 1, UNIT);
        TOKEN.mint(address(REWARDS), amount);
        donated += amount;
        ++successes;
    }

    /// @dev `lie` 0: the declared total is half a unit short of the leaves' sum.
    function propose(uint256 job, uint256 seed, uint256 lie) external {
        ++attempts;
        if (_propose(job % JOBS, seed, lie % 4 == 0)) ++successes;
    }

    function drop(uint256 job) external {
        ++attempts;
        job = job % JOBS;
        bytes32 jobId = jobs[job];
        IRewardDistributor.Pool memory pool = REWARDS.pools(jobId);
        if (pool.pending.root == 0 && !_propose(job, 1, false)) return;
        pool = REWARDS.pools(jobId);
        bytes32[] memory nodes = _tree(job, _books[job].pending);
        uint256 amount = _books[job].pending[0];

        vm.prank(GUARDIAN);
        REWARDS.dropRoot(jobId, pool.pending.epoch);
        _books[job].pendingAt = 0;
        skip(REWARDS.ACTIVATION_DELAY());
        if (nodes[0] != pool.active.root) {
            _mustFail(abi.encodeCall(REWARDS.claim, (jobId, accounts[0], amount, nodes.proof(0))));
        }
        ++successes;
    }

    function claimOne(uint256 job, uint256 account) external {
        ++attempts;
        job = job % JOBS;
        _unpause();
        if (_activeTotal(job) == 0) {
            if (!_propose(job, account, false)) return;
            skip(REWARDS.ACTIVATION_DELAY());
        }
        if (_claim(job, account % ACCOUNTS)) ++successes;
    }

    function claimAll(uint256 job) external {
        ++attempts;
        job = job % JOBS;
        _unpause();
        _sync(job);
        Book storage book = _books[job];
        uint256 sum = 0;
        uint256 open = 0;
        for (uint256 i = 0; i < ACCOUNTS; ++i) {
            uint256 had = paid[jobs[job]][accounts[i]];
            sum += had;
            if (book.active[i] > had) open += book.active[i] - had;
        }
        if (_activeTotal(job) == 0 || sum + open > book.declared) return;
        bytes32[] memory nodes = _tree(job, book.active);
        IRewardDistributor.Claim[] memory list = new IRewardDistributor.Claim[](ACCOUNTS);
        for (uint256 i = 0; i < ACCOUNTS; ++i) {
            list[i] = IRewardDistributor.Claim(jobs[job], accounts[i], book.active[i], nodes.proof(i));
        }
        REWARDS.claimMany(list);
        for (uint256 i = 0; i < ACCOUNTS; ++i) {
            if (book.active[i] > paid[jobs[job]][accounts[i]]) paid[jobs[job]][accounts[i]] = book.active[i];
        }
        ++claims;
        ++successes;
    }

    /// @dev A root that waits pays nobody.
    function claimEarly(uint256 job, uint256 account) external {
        ++attempts;
        job = job % JOBS;
        account = account % ACCOUNTS;
        if (REWARDS.pools(jobs[job]).pending.root == 0 && !_propose(job, account, false)) return;
        IRewardDistributor.Pool memory pool = REWARDS.pools(jobs[job]);
        uint256 amount = _books[job].pending[account];
        bytes32[] memory nodes = _tree(job, _books[job].pending);
        if (nodes[0] == pool.active.root) return;
        _mustFail(abi.encodeCall(REWARDS.claim, (jobs[job], accounts[account], amount, nodes.proof(account))));
        ++successes;
    }

    /// @dev A leaf of one job is worth nothing in the other.
    function claimAcross(uint256 job, uint256 account) external {
        ++attempts;
        job = job % JOBS;
        account = account % ACCOUNTS;
        _sync(job);
        bytes32[] memory nodes = _tree(job, _books[job].active);
        uint256 amount = _books[job].active[account];
        _mustFail(abi.encodeCall(REWARDS.claim, (jobs[1 - job], accounts[account], amount, nodes.proof(account))));
        ++successes;
    }

    function pause(uint256 job) external {
        ++attempts;
        uint64 until = REWARDS.pausedUntil();
        if (until != 0 && block.timestamp < until + REWARDS.PAUSE_COOLDOWN()) {
            skip(1 days);
            ++successes;
            return;
        }
        vm.prank(GUARDIAN);
        REWARDS.pause();
        job = job % JOBS;
        _sync(job);
        bytes32[] memory nodes = _tree(job, _books[job].active);
        _mustFail(abi.encodeCall(REWARDS.claim, (jobs[job], accounts[0], _books[job].active[0], nodes.proof(0))));
        _mustFail(abi.encodeCall(REWARDS.withdrawUnallocated, (jobs[job], SPONSOR)));
        ++successes;
    }

    /// @dev Closes the second job once, rarely; withdraws when the grace is over.
    function closeOrWithdraw(uint256 dice) external {
        ++attempts;
        bytes32 jobId = jobs[1];
        IRewardDistributor.Pool memory pool = REWARDS.pools(jobId);
        if (pool.closedAt == 0) {
            if (dice % 8 == 0) {
                vm.prank(SPONSOR);
                REWARDS.close(jobId);
            }
            ++successes;
            return;
        }
        _unpause();
        skip(REWARDS.CLOSE_GRACE());
        _sync(1);
        pool = REWARDS.pools(jobId);
        uint256 promised = pool.pending.root != 0 ? pool.pending.total : pool.active.total;
        uint256 left = pool.funded - promised;
        if (left == 0) {
            vm.prank(SPONSOR);
            _mustFail(abi.encodeCall(REWARDS.withdrawUnallocated, (jobId, SPONSOR)));
        } else {
            vm.prank(SPONSOR);
            REWARDS.withdrawUnallocated(jobId, SPONSOR);
            _books[1].withdrawn += left;
        }
        ++successes;
    }

    // -------------------------------------------------------------------------------------------------- views

    function expectedFunded(uint256 job) external view returns (uint256) {
        return _books[job].funded - _books[job].withdrawn;
    }

    // ------------------------------------------------------------------------------------------------ private

    function _propose(uint256 job, uint256 seed, bool lie) private returns (bool) {
        bytes32 jobId = jobs[job];
        _unpause();
        IRewardDistributor.Pool memory pool = REWARDS.pools(jobId);
        if (pool.closedAt != 0) return false;
        if (pool.pending.root != 0) skip(REWARDS.ACTIVATION_DELAY());
        _sync(job);
        pool = REWARDS.pools(jobId);

        Book storage book = _books[job];
        uint256 total = 0;
        for (uint256 i = 0; i < ACCOUNTS; ++i) {
            book.pending[i] = book.active[i] + uint256(keccak256(abi.encode(seed, i))) % (10 * UNIT) + 1;
            total += book.pending[i];
        }
        if (total > pool.funded) _fund(job, total - pool.funded);
        uint256 declared = lie && total - UNIT / 2 >= pool.active.total ? total - UNIT / 2 : total;
        bytes32[] memory nodes = _tree(job, book.pending);
        IRewardDistributor.RewardRoot memory reward = IRewardDistributor.RewardRoot({
            jobId: jobId, epoch: pool.pending.epoch + 1, root: nodes[0], total: uint128(declared), dataHash: "data"
        });
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(COMMITTEE_KEY, REWARDS.rewardRootDigest(reward));
        bytes[] memory signatures = new bytes[](1);
        signatures[0] = abi.encodePacked(vm.addr(COMMITTEE_KEY), r, s, v);
        REWARDS.proposeRoot(reward, signatures);
        book.pendingAt = uint64(block.timestamp) + REWARDS.ACTIVATION_DELAY();
        return true;
    }

    /// @dev Copies what has become active.
    function _sync(uint256 job) private {
        Book storage book = _books[job];
        if (book.pendingAt != 0 && block.timestamp >= book.pendingAt) {
            book.active = book.pending;
            book.pendingAt = 0;
        }
        book.declared = REWARDS.pools(jobs[job]).active.total;
    }

    function _claim(uint256 job, uint256 account) private returns (bool) {
        _sync(job);
        Book storage book = _books[job];
        bytes32[] memory nodes = _tree(job, book.active);
        uint256 amount = book.active[account];
        bytes memory call = abi.encodeCall(REWARDS.claim, (jobs[job], accounts[account], amount, nodes.proof(account)));
        uint256 had = paid[jobs[job]][accounts[account]];
        uint256 claimed = REWARDS.pools(jobs[job]).claimed;
        if (amount <= had || claimed + amount - had > book.declared) {
            _mustFail(call);
            return false;
        }
        REWARDS.claim(jobs[job], accounts[account], amount, nodes.proof(account));
        paid[jobs[job]][accounts[account]] = amount;
        ++claims;
        return true;
    }

    function _fund(uint256 job, uint256 amount) private {
        TOKEN.mint(address(this), amount);
        TOKEN.approve(address(REWARDS), amount);
        REWARDS.fund(jobs[job], uint128(amount));
        _books[job].funded += amount;
    }

    function _unpause() private {
        if (block.timestamp < REWARDS.pausedUntil()) vm.warp(REWARDS.pausedUntil());
    }

    function _activeTotal(uint256 job) private view returns (uint256) {
        return REWARDS.pools(jobs[job]).active.total;
    }

    function _mustFail(bytes memory call) private {
        (bool ok,) = address(REWARDS).call(call);
        if (ok) ++breaches;
    }

    function _tree(uint256 job, uint256[5] memory amounts) private view returns (bytes32[] memory) {
        bytes32[] memory leaves = new bytes32[](ACCOUNTS);
        for (uint256 i = 0; i < ACCOUNTS; ++i) {
            leaves[i] = REWARDS.leafOf(jobs[job], accounts[i], amounts[i]);
        }
        return leaves.build();
    }

    function skip(uint256 time) private {
        vm.warp(block.timestamp + time);
    }
}
