// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {
    AccessControlDefaultAdminRules
} from "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {IAggregatorCommittee} from "./interfaces/IAggregatorCommittee.sol";
import {IDeviceRegistry} from "./interfaces/IDeviceRegistry.sol";
import {IModelRegistry} from "./interfaces/IModelRegistry.sol";
import {IRewardDistributor} from "./interfaces/IRewardDistributor.sol";
import {RewardHash} from "./libraries/RewardHash.sol";

/// @title RewardDistributor
/// @notice See {IRewardDistributor}. For every job, at any time: claimed <= active.total <= pending.total <= funded
/// (as far as there is such a root), and the contract holds at least the sum of funded - claimed over a token's jobs.
contract RewardDistributor is IRewardDistributor, AccessControlDefaultAdminRules, EIP712, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    // --------------------------------------------------------------------------------- constants, immutables

    /// @inheritdoc IRewardDistributor
    bytes32 public constant GUARDIAN_ROLE = keccak256("GUARDIAN_ROLE");

    /// @inheritdoc IRewardDistributor
    uint64 public constant MAX_PAUSE = 14 days;

    /// @inheritdoc IRewardDistributor
    uint64 public constant PAUSE_COOLDOWN = 30 days;

    /// @notice Longest activation delay that can be deployed.
    uint64 public constant MAX_ACTIVATION_DELAY = 30 days;

    /// @notice Longest grace that can be deployed. Shorter than `PAUSE_COOLDOWN`: a pause restarts the grace, and
    /// between two pauses there must be time to withdraw.
    uint64 public constant MAX_CLOSE_GRACE = 21 days;

    /// @inheritdoc IRewardDistributor
    uint64 public immutable ACTIVATION_DELAY;

    /// @inheritdoc IRewardDistributor
    uint64 public immutable CLOSE_GRACE;

    /// @notice Who attests reward roots.
    IAggregatorCommittee public immutable COMMITTEE;

    /// @notice Who owns a job.
    IModelRegistry public immutable MODEL_REGISTRY;

    /// @notice Where an account is paid.
    IDeviceRegistry public immutable DEVICE_REGISTRY;

    // ------------------------------------------------------------------------------------------------ storage

    /// @inheritdoc IRewardDistributor
    uint64 public pausedUntil;

    /// @inheritdoc IRewardDistributor
    mapping(bytes32 jobId => mapping(address account => uint256 cumulative)) public claimedOf;

    mapping(bytes32 jobId => Pool pool) private _pools;

    // ---------------------------------------------------------------------------------------------- modifiers

    modifier whenNotPaused() {
        if (block.timestamp < pausedUntil) revert PausedUntil(pausedUntil);
        _;
    }

    modifier onlyJobOwner(bytes32 jobId) {
        (address owner,,,,) = MODEL_REGISTRY.jobs(jobId);
        if (msg.sender != owner) revert NotJobOwner(jobId, owner, msg.sender);
        _;
    }

    // -------------------------------------------------------------------------------------------- constructor

    /// @param adminDelay Seconds between the announcement and the take-over of a new admin.
    /// @param admin First admin.
    /// @param committee Who attests reward roots, for ever.
    /// @param modelRegistry Where jobs and their owners are recorded.
    /// @param deviceRegistry Where payout accounts are recorded.
    /// @param activationDelay Seconds between a root's proposal and its first payment.
    /// @param closeGrace Seconds between a pool's closing and the first withdrawal of what is left.
    constructor(
        uint48 adminDelay,
        address admin,
        IAggregatorCommittee committee,
        IModelRegistry modelRegistry,
        IDeviceRegistry deviceRegistry,
        uint64 activationDelay,
        uint64 closeGrace
    ) AccessControlDefaultAdminRules(adminDelay, admin) EIP712("Fedge", "1") {
        if (activationDelay > MAX_ACTIVATION_DELAY) {
            revert DelayTooLong(activationDelay, MAX_ACTIVATION_DELAY);
        }
        if (closeGrace > MAX_CLOSE_GRACE) revert DelayTooLong(closeGrace, MAX_CLOSE_GRACE);
        COMMITTEE = committee;
        MODEL_REGISTRY = modelRegistry;
        DEVICE_REGISTRY = deviceRegistry;
        ACTIVATION_DELAY = activationDelay;
        CLOSE_GRACE = closeGrace;
    }

    // ----------------------------------------------------------------------------------- mutating: the sponsor

    /// @inheritdoc IRewardDistributor
    function createPool(bytes32 jobId, IERC20 token) external onlyJobOwner(jobId) {
        Pool storage pool = _pools[jobId];
        if (address(pool.token) != address(0)) revert PoolExists(jobId);
        if (address(token).code.length == 0) revert NotAToken(address(token));

        pool.token = token;
        emit PoolCreated(jobId, token, msg.sender);
    }

    /// @inheritdoc IRewardDistributor
    function fund(bytes32 jobId, uint128 amount) external nonReentrant {
        // CHECK: the pool is open.
        Pool storage pool = _requirePool(jobId);
        if (pool.closedAt != 0) revert PoolIsClosed(jobId, pool.closedAt);

        // INTERACTION before the effect, under the guard: only the balance tells what a token with a fee delivers.
        IERC20 token = pool.token;
        uint256 before = token.balanceOf(address(this));
        token.safeTransferFrom(msg.sender, address(this), amount);
        uint128 received = SafeCast.toUint128(token.balanceOf(address(this)) - before);
        if (received == 0) revert NothingReceived(jobId);

        // EFFECT: what arrived is credited.
        uint128 funded = pool.funded + received;
        pool.funded = funded;
        emit Funded(jobId, msg.sender, received, funded);
    }

    /// @inheritdoc IRewardDistributor
    function close(bytes32 jobId) external onlyJobOwner(jobId) {
        Pool storage pool = _requirePool(jobId);
        if (pool.closedAt != 0) revert PoolIsClosed(jobId, pool.closedAt);

        uint64 closedAt = SafeCast.toUint64(block.timestamp);
        pool.closedAt = closedAt;
        emit PoolClosed(jobId, closedAt);
    }

    /// @inheritdoc IRewardDistributor
    function withdrawUnallocated(bytes32 jobId, address recipient)
        external
        nonReentrant
        whenNotPaused
        onlyJobOwner(jobId)
    {
        // CHECK: the grace is over, and something is promised to nobody.
        Pool storage pool = _requirePool(jobId);
        if (recipient == address(0)) revert ZeroField();
        uint64 until = _graceEnd(pool);
        if (block.timestamp < until) revert GraceNotOver(jobId, until);
        uint128 promised = pool.pending.root != 0 ? pool.pending.total : pool.active.total;
        uint128 amount = pool.funded - promised;
        if (amount == 0) revert NothingUnallocated(jobId);

        // EFFECT: exactly the promises stay funded.
        pool.funded = promised;
        emit UnallocatedWithdrawn(jobId, recipient, amount);

        // INTERACTION
        pool.token.safeTransfer(recipient, amount);
    }

    // --------------------------------------------------------------------------------- mutating: the committee

    /// @inheritdoc IRewardDistributor
    function proposeRoot(RewardRoot calldata reward, bytes[] calldata signatures) external whenNotPaused {
        // CHECK: the next epoch of an open pool, promising no less than before and no more than there is.
        bytes32 jobId = reward.jobId;
        Pool storage pool = _requirePool(jobId);
        uint64 until = _graceEnd(pool);
        if (block.timestamp >= until) revert GraceOver(jobId, until);
        _activate(pool);
        if (pool.pending.root != 0) revert RootPending(jobId, pool.pending.epoch, pool.pending.activeAt);
        uint64 expected = pool.pending.epoch + 1;
        if (reward.epoch != expected) revert EpochOutOfOrder(jobId, expected, reward.epoch);
        if (reward.root == 0) revert ZeroField();
        if (reward.total < pool.active.total || reward.total > pool.funded) {
            revert TotalOutOfRange(jobId, pool.active.total, reward.total, pool.funded);
        }
        COMMITTEE.verify(_hashTypedDataV4(RewardHash.root(reward)), signatures);

        // EFFECT: the root waits.
        uint64 activeAt = SafeCast.toUint64(block.timestamp) + ACTIVATION_DELAY;
        pool.pending = Root({root: reward.root, total: reward.total, epoch: reward.epoch, activeAt: activeAt});
        emit RootProposed(jobId, reward.epoch, reward.root, reward.total, reward.dataHash, activeAt);
    }

    // ---------------------------------------------------------------------------------- mutating: the earners

    /// @inheritdoc IRewardDistributor
    function claim(bytes32 jobId, address account, uint256 cumulative, bytes32[] calldata proof)
        external
        nonReentrant
        whenNotPaused
    {
        _claim(jobId, account, DEVICE_REGISTRY.recipientOf(account), cumulative, proof);
    }

    /// @inheritdoc IRewardDistributor
    function claimMany(Claim[] calldata claims) external nonReentrant whenNotPaused {
        for (uint256 i = 0; i < claims.length; ++i) {
            Claim calldata item = claims[i];
            address recipient = DEVICE_REGISTRY.recipientOf(item.account);

            // CHECK and EFFECT
            uint256 amount = _book(item.jobId, item.account, item.cumulative, item.proof);
            if (amount == 0) continue;

            // INTERACTION, under the guard: one recipient that the token refuses must not hold up the others.
            Pool storage pool = _pools[item.jobId];
            if (pool.token.trySafeTransfer(recipient, amount)) {
                emit Claimed(item.jobId, item.account, recipient, amount, item.cumulative);
            } else {
                claimedOf[item.jobId][item.account] = item.cumulative - amount;
                pool.claimed -= SafeCast.toUint128(amount);
                emit ClaimSkipped(item.jobId, item.account, recipient, amount);
            }
        }
    }

    /// @inheritdoc IRewardDistributor
    function claimTo(
        bytes32 jobId,
        address account,
        address recipient,
        uint256 cumulative,
        bytes32[] calldata proof,
        uint64 notAfter,
        bytes calldata signature
    ) external nonReentrant whenNotPaused {
        // CHECK: whoever would be paid asks for it now.
        if (recipient == address(0)) revert ZeroField();
        if (block.timestamp > notAfter) revert SignatureExpired(notAfter);
        address signer = DEVICE_REGISTRY.recipientOf(account);
        bytes32 digest = _hashTypedDataV4(RewardHash.claimTo(jobId, account, recipient, cumulative, notAfter));
        if (!SignatureChecker.isValidSignatureNowCalldata(signer, digest, signature)) {
            revert InvalidRecipientSignature(signer);
        }

        _claim(jobId, account, recipient, cumulative, proof);
    }

    // --------------------------------------------------------------------------------- mutating: the guardian

    /// @inheritdoc IRewardDistributor
    function dropRoot(bytes32 jobId, uint64 epoch) external onlyRole(GUARDIAN_ROLE) {
        Root storage pending = _pools[jobId].pending;
        bytes32 root = pending.root;
        if (root == 0 || pending.epoch != epoch || block.timestamp >= pending.activeAt) {
            revert NoPendingRoot(jobId, epoch);
        }

        // The epoch's number stays: the committee's signatures on a dropped root must not work again.
        pending.root = 0;
        pending.total = 0;
        emit RootDropped(jobId, epoch, root);
    }

    /// @inheritdoc IRewardDistributor
    function pause() external onlyRole(GUARDIAN_ROLE) {
        uint64 openUntil = pausedUntil == 0 ? 0 : pausedUntil + PAUSE_COOLDOWN;
        if (block.timestamp < openUntil) revert PauseCooldown(openUntil);

        uint64 until = SafeCast.toUint64(block.timestamp) + MAX_PAUSE;
        pausedUntil = until;
        emit Paused(msg.sender, until);
    }

    /// @inheritdoc IRewardDistributor
    function unpause() external {
        if (!hasRole(GUARDIAN_ROLE, msg.sender)) _checkRole(DEFAULT_ADMIN_ROLE);
        if (block.timestamp >= pausedUntil) revert NotPaused();

        pausedUntil = SafeCast.toUint64(block.timestamp);
        emit Unpaused(msg.sender);
    }

    // --------------------------------------------------------------------------------------------------- view

    /// @inheritdoc IRewardDistributor
    function pools(bytes32 jobId) external view returns (Pool memory pool) {
        pool = _pools[jobId];
        if (_isDue(pool.pending.root, pool.pending.activeAt)) {
            // A new struct: assigning one memory struct to another would make them the same.
            pool.active = pool.pending;
            pool.pending = Root({root: 0, total: 0, epoch: pool.active.epoch, activeAt: pool.active.activeAt});
        }
    }

    /// @inheritdoc IRewardDistributor
    function rewardRootDigest(RewardRoot calldata reward) external view returns (bytes32) {
        return _hashTypedDataV4(RewardHash.root(reward));
    }

    /// @inheritdoc IRewardDistributor
    function leafOf(bytes32 jobId, address account, uint256 cumulative) external pure returns (bytes32) {
        return RewardHash.leaf(jobId, account, cumulative);
    }

    // ------------------------------------------------------------------------------------------------ private

    function _claim(bytes32 jobId, address account, address recipient, uint256 cumulative, bytes32[] calldata proof)
        private
    {
        // CHECK and EFFECT
        uint256 amount = _book(jobId, account, cumulative, proof);
        if (amount == 0) revert NothingToClaim(jobId, account, cumulative, claimedOf[jobId][account]);
        emit Claimed(jobId, account, recipient, amount, cumulative);

        // INTERACTION
        _pools[jobId].token.safeTransfer(recipient, amount);
    }

    /// @dev Checks the proof and books the difference to what was paid before; zero when all was.
    function _book(bytes32 jobId, address account, uint256 cumulative, bytes32[] calldata proof)
        private
        returns (uint256 amount)
    {
        Pool storage pool = _requirePool(jobId);
        _activate(pool);
        Root storage active = pool.active;
        bytes32 leaf = RewardHash.leaf(jobId, account, cumulative);
        // A zero root has no pre-image, so no proof leads to it before the first activation.
        if (!MerkleProof.verifyCalldata(proof, active.root, leaf)) revert InvalidProof(jobId, account, cumulative);
        uint256 paid = claimedOf[jobId][account];
        if (cumulative <= paid) return 0;
        amount = cumulative - paid;
        uint256 claimed = pool.claimed + amount;
        if (claimed > active.total) revert TotalExceeded(jobId, claimed, active.total);

        claimedOf[jobId][account] = cumulative;
        pool.claimed = SafeCast.toUint128(claimed);
    }

    /// @dev Makes a root whose time has come the active one. Keeps `pending.epoch`, the last used number.
    function _activate(Pool storage pool) private {
        Root storage pending = pool.pending;
        if (_isDue(pending.root, pending.activeAt)) {
            pool.active = pending;
            pending.root = 0;
            pending.total = 0;
        }
    }

    function _isDue(bytes32 root, uint64 activeAt) private view returns (bool) {
        return root != 0 && block.timestamp >= activeAt;
    }

    function _requirePool(bytes32 jobId) private view returns (Pool storage pool) {
        pool = _pools[jobId];
        if (address(pool.token) == address(0)) revert UnknownPool(jobId);
    }

    /// @dev First second of withdrawals. A pause holds the committee up too, so the grace starts again after it.
    function _graceEnd(Pool storage pool) private view returns (uint64) {
        uint64 closedAt = pool.closedAt;
        if (closedAt == 0) return type(uint64).max;
        return (pausedUntil > closedAt ? pausedUntil : closedAt) + CLOSE_GRACE;
    }
}
