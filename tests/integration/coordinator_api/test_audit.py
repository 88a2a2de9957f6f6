"""`fedgectl audit` over a really published ledger, intact and altered."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from tests.unit.coordinator.settlement.fleet_fixture import (
    JOB_ID,
    bindings,
    job_terms,
    make_fleet,
    make_round,
    weights_after,
)

from fedge_coordinator.settlement.bundle import write_epoch, write_record, write_weights
from fedge_coordinator.settlement.ledger import LedgerSettlement
from fedge_coordinator.settlement.signer import LocalSigner
from fedge_coordinator.settlement.tables import metadata

MEMBERS = [LocalSigner(bytes([number]) * 32) for number in (0x21, 0x22)]
PINNED = [part for member in MEMBERS for part in ("--member", f"0x{member.address.hex()}")]


@pytest.fixture
async def published(tmp_path: Path) -> Path:
    """`published/digits` and `ledger.jsonl` of two rounds and one epoch."""
    engine = create_engine(f"sqlite:///{tmp_path / 'ledger.db'}")
    metadata.create_all(engine)
    ledger, fleet = LedgerSettlement(engine, committee=MEMBERS, threshold=2), make_fleet(4)
    folder = tmp_path / "published" / "digits"
    await ledger.register_devices(bindings(fleet, ledger.domains))
    await ledger.open_job(job_terms())
    write_weights(folder, 0, weights_after(0))
    for number in (1, 2):
        write_record(folder, await ledger.publish_checkpoint(make_round(fleet, number, ledger.domains)))
        write_weights(folder, number, weights_after(number))
    document = await ledger.settle_epoch(JOB_ID)
    assert document is not None
    write_epoch(folder, document)
    await ledger.claim_all(JOB_ID)
    (tmp_path / "ledger.jsonl").write_bytes(b"\n".join(ledger.lines()) + b"\n")
    engine.dispose()
    return folder


def audit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from fedge_coordinator.cli import main; main()", "audit", folder.name,
         "--published", str(folder.parent), *arguments],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def ledger_of(folder: Path) -> tuple[str, str]:
    return "--ledger", str(folder.parent.parent / "ledger.jsonl")


def test_intact_records_pass_and_small_rounds_are_said_to_be(published: Path):
    done = audit(published, *ledger_of(published), *PINNED)
    assert done.returncode == 0, done.stderr
    assert "0 failed" in done.stdout
    assert "below the secure floor of 16" in done.stderr
    assert "pin it" not in done.stderr


def test_a_committee_that_is_not_pinned_is_said_to_be(published: Path):
    done = audit(published, *ledger_of(published))
    assert done.returncode == 0
    assert "pin it with --member" in done.stderr


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("records/000001.json", b'"weight":1', b'"weight":9'),
        ("epochs/000001.json", b'"total":"', b'"total":"1'),
        ("weights/000002.f32", b"\x02", b"\x03"),
    ],
)
def test_any_altered_file_fails_the_audit(published: Path, file: str, old: bytes, new: bytes):
    content = (published / file).read_bytes()
    assert old in content
    (published / file).write_bytes(content.replace(old, new, 1))
    done = audit(published, *ledger_of(published), *PINNED, "-o", "json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"]) == (1, False)
    assert any(each["status"] == "fail" and each["path"].startswith(file[:14]) for each in report["findings"])


def test_an_altered_ledger_fails_the_audit(published: Path):
    path = published.parent.parent / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"round":1', b'"round":2', 1))
    done = audit(published, *ledger_of(published), *PINNED)
    assert done.returncode == 1
    assert "the ledger is not in order" in done.stderr


def test_a_document_of_another_job_fails_the_audit(published: Path, document: dict[str, object], tmp_path: Path):
    (tmp_path / "job.json").write_text(json.dumps(document))
    done = audit(published, *ledger_of(published), *PINNED, "-f", str(tmp_path / "job.json"))
    assert done.returncode == 1
    assert "the document is the job's" in done.stdout


def test_nothing_published_is_four(published: Path):
    assert audit(published.with_name("other"), *ledger_of(published)).returncode == 4


async def test_without_a_ledger_file_the_coordinator_is_asked(api, published: Path):
    lines = (published.parent.parent / "ledger.jsonl").read_bytes().splitlines()
    from fedge_coordinator.settlement.tables import ledger  # noqa: PLC0415 - named like a fixture elsewhere

    with api.store.transaction() as connection:
        connection.execute(ledger.insert(), [{"sequence": number, "line": line} for number, line in enumerate(lines)])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from fedge_coordinator.cli import main; main()", "audit", "digits",
        "--published", str(published.parent), *PINNED, "-o", "wide",
        env=os.environ | {"FEDGE_SOCKET": str(api.socket)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert b"0 failed" in out
