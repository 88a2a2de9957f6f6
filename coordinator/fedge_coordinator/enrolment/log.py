"""The membership log in the CA's database: appended in the transaction that changes the membership."""

from typing import Final

from sqlalchemy import Connection, insert, select

from fedge_coordinator.enrolment.authority import Authority
from fedge_coordinator.enrolment.tables import LOG
from fedge_protocol import cose
from fedge_protocol.membership import MAX_PAGE_ENTRIES, Change, Entry, Head, Page

_MAX_ENTRY_BYTES: Final = 4096


def head(connection: Connection, authority: Authority) -> Head:
    """The signed head of the whole log."""
    stored = connection.execute(select(LOG.c.head).order_by(LOG.c.seq.desc()).limit(1)).scalar_one_or_none()
    return authority.genesis() if stored is None else cose.decode(stored, Head)


def append(
    connection: Connection,
    authority: Authority,
    change: Change,
    device_id: str,
    *,
    now: int,
    certificate: bytes = b"",
    replaces: str = "",
) -> Head:
    """Add one entry and sign the new head."""
    last = head(connection, authority)
    entry = Entry(last.seq + 1, change, device_id, certificate, now, replaces, last.hash)
    new = authority.sign_head(entry.seq, entry.hash())
    connection.execute(insert(LOG).values(seq=entry.seq, entry=cose.encode(entry), head=cose.encode(new)))
    return new


def page(connection: Connection, authority: Authority, after: int) -> Page:
    """The entries after `after`, at most `MAX_PAGE_ENTRIES`, and the signed head at the last of them.

    Asked for more than there is, it answers with the head there is, and the asker sees that the log became shorter.
    """
    rows = connection.execute(
        select(LOG.c.entry, LOG.c.head).where(LOG.c.seq > after).order_by(LOG.c.seq).limit(MAX_PAGE_ENTRIES)
    ).all()
    if not rows:
        return Page((), head(connection, authority))
    entries = tuple(cose.decode(row.entry, Entry, max_bytes=_MAX_ENTRY_BYTES) for row in rows)
    return Page(entries, cose.decode(rows[-1].head, Head))
