// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

/// @title One ERC-20 reward pool per job, paid out along cumulative Merkle roots
/// @notice The committee signs, once an epoch, the root of everything that every account has ever earned in a job. A
/// root pays only after an activation delay, never more than its declared total, and never another job's money.
/// Leaf: `keccak256(bytes.concat(keccak256(abi.encode(bytes32 jobId, address account, uint256 cumulative))))`, pairs
/// sorted (OpenZeppelin StandardMerkleTree). Rebasing tokens are not supported; fee-on-transfer tokens are.
interface IRewardDistributor {
    /// @notice EIP-712 structure that the committee signs.
    /// @param jobId keccak256 of "fleet/job".
    /// @param epoch One more than the job's last proposed epoch; the first is 1. A dropped epoch's number stays used.
    /// @param root Merkle root over all accounts' cumulative earnings.
    /// @param total Sum of all cumulative earnings: at least the active root's, at most what the pool was funded with.
    /// @param dataHash SHA-256 of the published epoch document from which anyone recomputes the root.
    struct RewardRoot {
        bytes32 jobId;
        uint64 epoch;
        bytes32 root;
        uint128 total;
        bytes32 dataHash;
    }

    /// @notice A root in storage.
    /// @param root Merkle root, zero when there is none.
    /// @param total Sum of the cumulative earnings below it.
    /// @param epoch Epoch it belongs to. In a pool's `pending` it stays as the last used number.
    /// @param activeAt Second from which it pays.
    struct Root {
        bytes32 root;
        uint128 total;
        uint64 epoch;
        uint64 activeAt;
    }

    /// @notice A job's pool.
    /// @param token ERC-20 it pays in, zero when there is no pool.
    /// @param closedAt Second at which the owner closed it, or zero.
    /// @param funded Tokens received, less tokens withdrawn by the owner.
    /// @param claimed Tokens paid out.
    /// @param active Root that pays now.
    /// @param pending Root that waits for its activation, if `pending.root` is not zero.
    struct Pool {
        IERC20 token;
        uint64 closedAt;
        uint128 funded;
        uint128 claimed;
        Root active;
        Root pending;
    }

    /// @notice One entry of `claimMany`.
    struct Claim {
        bytes32 jobId;
        address account;
        uint256 cumulative;
        bytes32[] proof;
    }

    /// @notice A pool was opened.
    event PoolCreated(bytes32 indexed jobId, IERC20 indexed token, address indexed owner);

    /// @notice A pool received tokens; `amount` is what really arrived.
    event Funded(bytes32 indexed jobId, address indexed from, uint128 amount, uint128 funded);

    /// @notice A root was proposed.
    event RootProposed(
        bytes32 indexed jobId, uint64 indexed epoch, bytes32 root, uint128 total, bytes32 dataHash, uint64 activeAt
    );

    /// @notice A guardian dropped a root before its activation.
    event RootDropped(bytes32 indexed jobId, uint64 indexed epoch, bytes32 root);

    /// @notice Rewards were paid.
    event Claimed(
        bytes32 indexed jobId, address indexed account, address indexed recipient, uint256 amount, uint256 cumulative
    );

    /// @notice `claimMany` left one entry out because the token refused the transfer; it stays claimable.
    event ClaimSkipped(bytes32 indexed jobId, address indexed account, address indexed recipient, uint256 amount);

    /// @notice The owner closed the pool.
    event PoolClosed(bytes32 indexed jobId, uint64 closedAt);

    /// @notice The owner took back tokens that no root has promised to anyone.
    event UnallocatedWithdrawn(bytes32 indexed jobId, address indexed recipient, uint128 amount);

    /// @notice Proposals, claims and withdrawals stop until `until`.
    event Paused(address indexed guardian, uint64 until);

    /// @notice A pause ended early.
    event Unpaused(address indexed account);

    /// @notice The job has no pool.
    error UnknownPool(bytes32 jobId);

    /// @notice The job has a pool already.
    error PoolExists(bytes32 jobId);

    /// @notice Only the job's owner, as recorded in the model registry.
    error NotJobOwner(bytes32 jobId, address owner, address caller);

    /// @notice The token has no code.
    error NotAToken(address token);

    /// @notice `root` and `recipient` must not be zero.
    error ZeroField();

    /// @notice No token arrived.
    error NothingReceived(bytes32 jobId);

    /// @notice The pool is closed to funding.
    error PoolIsClosed(bytes32 jobId, uint64 closedAt);

    /// @notice The pool is not closed, or its grace has not passed.
    error GraceNotOver(bytes32 jobId, uint64 until);

    /// @notice The pool's grace has passed: what is promised stays claimable, but nothing new is promised.
    error GraceOver(bytes32 jobId, uint64 until);

    /// @notice Epochs follow one another.
    error EpochOutOfOrder(bytes32 jobId, uint64 expected, uint64 given);

    /// @notice The last proposed root still waits for its activation.
    error RootPending(bytes32 jobId, uint64 epoch, uint64 activeAt);

    /// @notice There is no such root that waits.
    error NoPendingRoot(bytes32 jobId, uint64 epoch);

    /// @notice Cumulative totals never fall and never exceed the funds.
    error TotalOutOfRange(bytes32 jobId, uint128 previous, uint128 total, uint128 funded);

    /// @notice The proof does not lead to the active root.
    error InvalidProof(bytes32 jobId, address account, uint256 cumulative);

    /// @notice Everything up to `cumulative` was paid before.
    error NothingToClaim(bytes32 jobId, address account, uint256 cumulative, uint256 claimed);

    /// @notice The leaves promise more than the root's declared total.
    error TotalExceeded(bytes32 jobId, uint256 claimed, uint128 total);

    /// @notice The signed statement is too old.
    error SignatureExpired(uint64 notAfter);

    /// @notice The signature is not that of the account that would be paid.
    error InvalidRecipientSignature(address signer);

    /// @notice Nothing to withdraw.
    error NothingUnallocated(bytes32 jobId);

    /// @notice The contract is paused.
    error PausedUntil(uint64 until);

    /// @notice The contract is not paused.
    error NotPaused();

    /// @notice After a pause the contract stays open for a while, so that no guardian can pause for ever.
    error PauseCooldown(uint64 until);

    /// @notice A delay of the constructor exceeds its upper bound.
    error DelayTooLong(uint64 delay, uint64 limit);

    /// @notice Opens the pool of a job. Only the job's owner; once, with one token.
    function createPool(bytes32 jobId, IERC20 token) external;

    /// @notice Pulls `amount` from the caller into the pool and credits what arrived. Anyone; not after closing.
    function fund(bytes32 jobId, uint128 amount) external;

    /// @notice Proposes the next root. Anyone may carry it; the committee's signatures authorise it.
    /// @param reward What the committee signed.
    /// @param signatures Entries as in `IAggregatorCommittee.verify`, over `rewardRootDigest(reward)`.
    function proposeRoot(RewardRoot calldata reward, bytes[] calldata signatures) external;

    /// @notice Drops a root that waits for its activation; its epoch number stays used. Only `GUARDIAN_ROLE`.
    function dropRoot(bytes32 jobId, uint64 epoch) external;

    /// @notice Pays what `account` has earned and not yet received. Anyone may call; the money goes to
    /// `IDeviceRegistry.recipientOf(account)`.
    function claim(bytes32 jobId, address account, uint256 cumulative, bytes32[] calldata proof) external;

    /// @notice Pays many. Entries already paid are passed over; one whose transfer the token refuses is left out with
    /// `ClaimSkipped`; an invalid proof reverts the whole batch.
    function claimMany(Claim[] calldata claims) external;

    /// @notice Pays to a recipient chosen, for this one claim, by the account that would otherwise be paid.
    /// @param jobId Job.
    /// @param account Account in the leaf.
    /// @param recipient Who is paid.
    /// @param cumulative Cumulative earnings in the leaf.
    /// @param proof Merkle proof.
    /// @param notAfter Last second at which the signature holds.
    /// @param signature EIP-712 (or ERC-1271) signature of `recipientOf(account)` over
    /// `ClaimTo(bytes32 jobId,address account,address recipient,uint256 cumulative,uint64 notAfter)`.
    function claimTo(
        bytes32 jobId,
        address account,
        address recipient,
        uint256 cumulative,
        bytes32[] calldata proof,
        uint64 notAfter,
        bytes calldata signature
    ) external;

    /// @notice Ends funding and starts the grace in which the committee may still propose. Only the job's owner.
    function close(bytes32 jobId) external;

    /// @notice After the grace, pays `recipient` what no root, active or pending, has promised. Only the job's owner.
    function withdrawUnallocated(bytes32 jobId, address recipient) external;

    /// @notice Stops proposals, claims and withdrawals for `MAX_PAUSE` at most. Only `GUARDIAN_ROLE`.
    function pause() external;

    /// @notice Ends a pause early. Only `GUARDIAN_ROLE` or the admin.
    function unpause() external;

    /// @notice A job's pool, as if a root whose time has come had been activated.
    function pools(bytes32 jobId) external view returns (Pool memory);

    /// @notice What an account of a job has been paid so far.
    function claimedOf(bytes32 jobId, address account) external view returns (uint256);

    /// @notice Second at which the present pause ends; in the past when the contract is open.
    function pausedUntil() external view returns (uint64);

    /// @notice EIP-712 digest that the committee signs.
    function rewardRootDigest(RewardRoot calldata reward) external view returns (bytes32);

    /// @notice Merkle leaf of an account.
    function leafOf(bytes32 jobId, address account, uint256 cumulative) external pure returns (bytes32);

    /// @notice Seconds between a root's proposal and its activation.
    function ACTIVATION_DELAY() external view returns (uint64);

    /// @notice Seconds between closing and the first withdrawal.
    function CLOSE_GRACE() external view returns (uint64);

    /// @notice Longest pause, in seconds.
    function MAX_PAUSE() external view returns (uint64);

    /// @notice Seconds that the contract stays open after a pause.
    function PAUSE_COOLDOWN() external view returns (uint64);

    /// @notice Role that pauses and drops pending roots.
    function GUARDIAN_ROLE() external view returns (bytes32);
}
