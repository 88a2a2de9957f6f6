"""The C headers and their Python copies say the same."""

import contextlib
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedge_agent.kernel import policy_records, programs, records
from fedge_agent.kernel.programs import MAPS, PROGRAMS, ObjectName, maps_of, programs_of

BPF = Path(__file__).parents[4] / "bpf"
HEADER = (BPF / "fedge.h").read_text()


def members(enum_name: str) -> list[str]:
    body = re.search(rf"enum {enum_name} \{{(.*?)\}};", HEADER, re.DOTALL)
    assert body is not None
    without_comments = re.sub(r"/\*.*?\*/", "", body[1], flags=re.DOTALL)
    return [item.split("=")[0].strip() for item in without_comments.split(",") if item.strip()]


@pytest.mark.parametrize(
    ("enum_name", "copy", "prefix", "extra"),
    [
        ("fedge_counter", records.Counter, "FEDGE_", ["FEDGE_COUNTERS"]),
        ("fedge_tel_counter", records.MachineCounter, "FEDGE_", ["FEDGE_TEL_COUNTERS"]),
        ("fedge_hook", records.Hook, "FEDGE_AT_", []),
        ("fedge_reason", records.DenialReason, "FEDGE_", []),
    ],
)
def test_enumerations_have_the_same_members_in_the_same_order(enum_name, copy, prefix, extra):
    assert members(enum_name) == [prefix + member.name for member in copy] + extra


def test_records_have_the_sizes_the_kernel_uses():
    assert policy_records.PEER.size == 24
    assert records.DENIAL.size == 40
    assert (policy_records.RULE.size, policy_records.BUDGET.size) == (16, 24)
    assert f"#define FEDGE_SLOTS {records.HISTOGRAM_SLOTS}" in HEADER
    assert f"#define FEDGE_PEER_SLOTS {records.PEER_SLOTS}" in HEADER


@pytest.mark.parametrize("name", list(ObjectName))
def test_the_table_lists_exactly_the_programs_and_maps_of_the_source(name):
    source = (BPF / f"{name.value}.bpf.c").read_text()
    found = dict(re.findall(r'^PROG\("([^"]+)", (\w+),', source, re.MULTILINE))
    assert found == {p.section: p.name for p in programs_of(name)}
    declared = set(re.findall(r"^MAP\(\w+, (\w+),", source, re.MULTILINE))
    declared |= set(re.findall(r"^(?:LPM|RING)\((\w+)", source, re.MULTILINE))
    assert declared == {item.name for item in maps_of(name)}


def test_names_fit_the_kernels_fifteen_characters_and_carry_our_prefix():
    for name in [p.name for p in PROGRAMS] + [m.name for m in MAPS]:
        assert name.startswith("fedge_")
        assert len(name) <= 15


def test_the_daemon_may_write_only_the_switch_and_the_rings_position():
    writable = {item.name for item in MAPS if item.access is programs.Access.READ_WRITE}
    assert writable == {"fedge_on", "fedge_deny"}


def test_compiled_offsets_are_those_the_loader_compares():
    text = (BPF / "tracepoints.h").read_text()
    compiled = {name: int(value) for name, value in re.findall(r"#define OFF_(\w+) (\d+)", text)}
    types = {
        name: 1 << ["u8", "u16", "u32", "u64"].index(value)
        for name, value in re.findall(r"#define TYPE_(\w+) __(u\d+)", text)
    }
    fields = [field for p in PROGRAMS for field in p.fields]
    listed = {field.macro: field.offset for field in fields}
    words = {field.macro for field in fields if field.size == 16}  # an address, read by words
    assert types == {field.macro: 4 if field.macro in words else field.size for field in fields}
    for name in words:
        assert (BPF / "telemetry.bpf.c").read_text().count(f"FIELD_WORD(ctx, {name}, ") == 4
    assert listed == compiled


@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 65535),
    st.ip_addresses(),
    st.sampled_from(records.Hook),
)
def test_a_denial_is_read_as_it_was_written(stamp_ns, suppressed, port, address, hook):
    packed = address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed
    record = struct.pack("=QI", stamp_ns, suppressed) + struct.pack("!HBB", port, 6, hook) + packed
    record += bytes((records.DenialReason.BUDGET_SPENT, 1)) + bytes(6)
    denial = records.Denial.decode(record)
    assert (denial.stamp_ns, denial.suppressed, denial.port, denial.hook) == (stamp_ns, suppressed, port, hook)
    assert (denial.reason, denial.audited) == (records.DenialReason.BUDGET_SPENT, True)
    mapped = address.ipv4_mapped if address.version == 6 else None
    assert denial.address == (mapped or address)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_denial_or_a_value_error(record):
    with contextlib.suppress(ValueError):
        records.Denial.decode(record)
