"""Enrolment tokens: made, listed, revoked and burned. Only the hash of a secret is stored."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta
from sqlalchemy import Connection, Row, insert, select, update

from fedge_coordinator.enrolment.errors import NotFoundError
from fedge_coordinator.enrolment.tables import TOKENS
from fedge_protocol.enrolment import EnrolmentReason, EnrolmentRefusedError, Token

DEFAULT_TTL_S: Final = 24 * 3600
MAX_TTL_S: Final = 366 * 24 * 3600
MAX_USES: Final = 100_000
_ID_CHARS: Final = 12
_ANOTHER: Final = "ask the operator for another: fedge-ca token create"

Uses = Annotated[int, Meta(ge=1, le=MAX_USES)]
Ttl = Annotated[int, Meta(ge=1, le=MAX_TTL_S)]
Label = Annotated[str, Meta(max_length=64)]


class TokenState(msgspec.Struct, frozen=True):
    """What may be known about a token. Times in Unix seconds."""

    id: str
    label: str
    uses: int
    uses_left: int
    created_at: int
    expires_at: int
    revoked_at: int | None


def create(connection: Connection, token: Token, *, uses: int, ttl_s: int, label: str, now: int) -> TokenState:
    """Store a token's hash. It is named by the first characters of that hash."""
    digest = token.secret_sha256()
    state = TokenState(digest.hex()[:_ID_CHARS], label, uses, uses, now, now + ttl_s, None)
    connection.execute(insert(TOKENS).values(secret_sha256=digest, **msgspec.structs.asdict(state)))
    return state


def listing(connection: Connection) -> list[TokenState]:
    """All tokens, the newest first."""
    rows = connection.execute(select(TOKENS).order_by(TOKENS.c.created_at.desc(), TOKENS.c.id))
    return [_state(row) for row in rows]


def revoke(connection: Connection, token_id: str, *, now: int) -> TokenState:
    """End a token; what it has enrolled stays enrolled. Revoking again changes nothing.

    Raises:
        NotFoundError: no such token.
    """
    connection.execute(
        update(TOKENS).where(TOKENS.c.id == token_id, TOKENS.c.revoked_at.is_(None)).values(revoked_at=now)
    )
    row = connection.execute(select(TOKENS).where(TOKENS.c.id == token_id)).one_or_none()
    if row is None:
        raise NotFoundError(f"no token {token_id!r}; see fedge-ca token list")
    return _state(row)


def find(connection: Connection, secret_sha256: bytes) -> TokenState:
    """The token with this secret, whatever its state.

    Raises:
        EnrolmentRefusedError: `unknown-token`.
    """
    row = connection.execute(select(TOKENS).where(TOKENS.c.secret_sha256 == secret_sha256)).one_or_none()
    if row is None:
        raise EnrolmentRefusedError(EnrolmentReason.UNKNOWN_TOKEN, "this CA made no such token", _ANOTHER)
    return _state(row)


def burn(connection: Connection, token: TokenState, *, now: int) -> None:
    """Take one use, in the transaction that issues.

    Raises:
        EnrolmentRefusedError: `token-revoked`, `token-expired` or `token-used`.
    """
    if token.revoked_at is not None:
        raise EnrolmentRefusedError(EnrolmentReason.TOKEN_REVOKED, f"token {token.id} was revoked", _ANOTHER)
    if now >= token.expires_at:
        raise EnrolmentRefusedError(EnrolmentReason.TOKEN_EXPIRED, f"token {token.id} expired", _ANOTHER)
    if token.uses_left < 1:
        raise EnrolmentRefusedError(
            EnrolmentReason.TOKEN_USED, f"token {token.id} has enrolled all {token.uses} of its devices", _ANOTHER
        )
    connection.execute(update(TOKENS).where(TOKENS.c.id == token.id).values(uses_left=TOKENS.c.uses_left - 1))


def _state(row: Row[tuple[object, ...]]) -> TokenState:
    return TokenState(**{str(name): value for name, value in row._mapping.items() if name != "secret_sha256"})  # noqa: SLF001 - SQLAlchemy's public name
