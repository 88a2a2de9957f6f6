import hashlib

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from fedge_protocol import cose
from fedge_protocol.membership import (
    Change,
    Entry,
    Head,
    LogFault,
    LogRefusedError,
    Page,
    empty_log,
    sign_head,
    verify_extends,
    verify_head,
)

KEY = ec.generate_private_key(ec.SECP256R1())
START = empty_log("lab", bytes(32))
DEVICE = "0123456789abcdef0123456789abcdef"


def log_of(changes: list[Change]) -> list[Entry]:
    entries: list[Entry] = []
    digest = START.hash
    for seq, change in enumerate(changes, 1):
        certificate = b"" if change is Change.REVOKED else b"certificate %d" % seq
        entries.append(Entry(seq, change, DEVICE, certificate, 1000 + seq, "", digest))
        digest = entries[-1].hash()
    return entries


def head_at(entries: list[Entry], seq: int) -> Head:
    return sign_head(KEY, "lab", seq, entries[seq - 1].hash() if seq else START.hash)


CHANGES = st.lists(st.sampled_from(list(Change)), max_size=12)


def fault_of(old: Head, entries: list[Entry], new: Head) -> LogFault:
    with pytest.raises(LogRefusedError) as refusal:
        verify_extends(old, entries, new)
    return refusal.value.fault


@given(CHANGES, st.data())
def test_every_log_extends_each_of_its_own_beginnings(changes, data):
    entries = log_of(changes)
    middle = data.draw(st.integers(0, len(entries)))
    verify_extends(head_at(entries, middle), entries[middle:], head_at(entries, len(entries)))


@given(CHANGES.filter(bool), st.data())
def test_a_log_with_anything_changed_left_out_or_reordered_does_not_extend(changes, data):
    entries = log_of(changes)
    head = head_at(entries, len(entries))
    index = data.draw(st.integers(0, len(entries) - 1))
    changed = msgspec.structs.replace(entries[index], time=entries[index].time + 1)
    for false in (
        [*entries[:index], changed, *entries[index + 1 :]],
        [*entries[:index], *entries[index + 1 :]],
        [*entries, entries[-1]],
        entries[1:] + entries[:1] if len(entries) > 1 else [],
    ):
        with pytest.raises(LogRefusedError):
            verify_extends(START, false, head)


def test_the_faults_have_names():
    entries = log_of([Change.ADDED, Change.RENEWED, Change.REVOKED])
    fork = log_of([Change.ADDED, Change.REVOKED, Change.REVOKED])
    full = head_at(entries, 3)
    assert fault_of(full, [], head_at(entries, 2)) is LogFault.TRUNCATED
    assert fault_of(full, [], head_at(fork, 3)) is LogFault.FORK
    assert fault_of(head_at(entries, 2), fork[2:], head_at(fork, 3)) is LogFault.BROKEN_CHAIN
    assert fault_of(START, entries[1:], full) is LogFault.GAP
    assert fault_of(START, entries[:2], full) is LogFault.BROKEN_CHAIN
    assert fault_of(empty_log("other", bytes(32)), entries, full) is LogFault.OTHER_FLEET
    assert fault_of(empty_log("lab", b"\1" * 32), entries, full) is LogFault.BROKEN_CHAIN


def test_an_entry_that_adds_nobody_or_revokes_with_a_certificate_is_refused():
    added = msgspec.structs.replace(log_of([Change.ADDED])[0], certificate=b"")
    revoked = msgspec.structs.replace(log_of([Change.REVOKED])[0], certificate=b"x")
    for entry in (added, revoked):
        assert fault_of(START, [entry], sign_head(KEY, "lab", 1, entry.hash())) is LogFault.BAD_ENTRY


def test_a_head_counts_for_its_key_its_fleet_its_length_and_its_hash():
    head = sign_head(KEY, "lab", 3, bytes(32))
    verify_head(head, key=KEY.public_key(), fleet="lab")
    assert sign_head(KEY, "lab", 3, bytes(32)) == head
    stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
    for false, key, fault in (
        (head, stranger, LogFault.BAD_SIGNATURE),
        (msgspec.structs.replace(head, seq=4), KEY.public_key(), LogFault.BAD_SIGNATURE),
        (msgspec.structs.replace(head, hash=b"\1" * 32), KEY.public_key(), LogFault.BAD_SIGNATURE),
        (msgspec.structs.replace(head, signature=bytes(64)), KEY.public_key(), LogFault.BAD_SIGNATURE),
        (msgspec.structs.replace(head, fleet="other"), KEY.public_key(), LogFault.OTHER_FLEET),
    ):
        with pytest.raises(LogRefusedError) as refusal:
            verify_head(false, key=key, fleet="lab")
        assert refusal.value.fault is fault


def test_a_page_survives_the_wire_and_an_entrys_hash_is_pinned():
    entries = log_of([Change.ADDED, Change.REVOKED])
    page = Page(tuple(entries), head_at(entries, 2))
    assert cose.decode(cose.encode(page), Page) == page
    plain = [1, "added", DEVICE, b"certificate 1", 1001, "", START.hash]
    expected = hashlib.sha256(b"fedge/v1/membership-entry\x00" + cose.encode(plain)).digest()
    assert entries[0].hash() == expected
