"""`fedgectl audit`: recompute a job from its public records, and compare that with the chain or the ledger."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

import click
import msgspec

from fedge_coordinator.cli.applying import read_jobs
from fedge_coordinator.cli.client import ApiClient
from fedge_coordinator.cli.failures import CommandError, ExitCode
from fedge_coordinator.cli.options import output_option, socket_option
from fedge_coordinator.cli.rendering import Output, plain, print_table, structured, warn
from fedge_coordinator.federation.publishing import aggregate_recomputer
from fedge_coordinator.settlement.audit import audit as audit_job
from fedge_coordinator.settlement.bundle import read_bundle
from fedge_coordinator.settlement.chain_reader import ChainReader
from fedge_coordinator.settlement.documents import RoundRecord, decode_document, hex_bytes
from fedge_coordinator.settlement.errors import DocumentError, LedgerCorruptError, RpcUnavailableError, SettlementError
from fedge_coordinator.settlement.findings import AuditReport, Evidence, Finding, Status
from fedge_coordinator.settlement.ledger_view import read_ledger
from fedge_coordinator.settlement.manifest import read_manifest
from fedge_coordinator.settlement.rpc import JsonRpc
from fedge_coordinator.settlement.view import PublicView
from fedge_protocol.eip712 import job_id
from fedge_protocol.jobspec import SECURE_FLOOR, TrainingJob, spec_hash

DEFAULT_PUBLISHED: Final = Path("/var/lib/fedge-coordinator/published")
_ADDRESS: Final = re.compile("0x[0-9a-fA-F]{40}")


class ReportView(msgspec.Struct, frozen=True):
    """A report for programs; `ok` says that nothing failed, `complete` that everything could be checked."""

    job: str
    source: str
    ok: bool
    complete: bool
    findings: tuple[Finding, ...]


@click.command()
@click.argument("job")
@click.option("--published", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT_PUBLISHED,
              show_default=True, envvar="FEDGE_PUBLISHED", show_envvar=True,
              help="Folder of the published records; the job's own is JOB in it.")  # fmt: skip
@click.option("-f", "--file", "document", type=click.File("rb"), help="The job's document: check hash and budget, too.")
@click.option("--rpc", "urls", multiple=True, envvar="FEDGE_RPC_URL", show_envvar=True,
              help="Read the chain from this node; repeatable. Wants --manifest.")  # fmt: skip
@click.option("--manifest", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="Where the contracts are (deployment manifest).")  # fmt: skip
@click.option(
    "--ledger", type=click.File("rb"), help="Without a chain: the ledger's lines; default: ask the coordinator."
)
@click.option("--member", "members", multiple=True, metavar="ADDRESS",
              help="A member of the committee, known from elsewhere; repeatable. For ledgers.")  # fmt: skip
@click.option(
    "--threshold", type=click.IntRange(1), help="Signatures a ledger's statement needs; default: all members."
)
@click.option("--fleet", help="Default: as the records say.")
@output_option(Output.TABLE, Output.WIDE, Output.JSON, Output.YAML)
@socket_option
def audit(job: str, published: Path, document: IO[bytes] | None, urls: tuple[str, ...], manifest: Path | None,
          ledger: IO[bytes] | None, members: tuple[str, ...], threshold: int | None, fleet: str | None,
          output: Output, socket: Path) -> None:  # fmt: skip
    r"""Check who took part, what was paid and where each model comes from.

    Receipts, signatures, Merkle roots, the sums of the masked updates, the reward split and the payments are
    computed again from published files. Exit code 1 when any check fails.

    \b
    Examples:
      fedgectl audit digits --rpc https://rpc.example.org --manifest deployment.json
      fedgectl audit digits --published ./published -f training-job.yaml -o wide
      fedgectl audit digits --ledger ledger.jsonl --member 0x1a2b... --threshold 2
    """
    if bool(urls) != (manifest is not None):
        raise click.UsageError("a chain is read with both --rpc URL and --manifest FILE")
    specification = _one_job(document, job)
    evidence = _evidence(published / job)
    name = job_id(fleet or _fleet_of(evidence), job)
    if manifest is not None:
        view = _chain_view(urls, manifest, name)
    else:
        lines = _ledger_lines(ledger, socket)
        view = _ledger_view(lines, evidence, members, threshold, name)
    report = _report(evidence, view, specification)
    _warn_small(view)
    _show(ReportView(job, report.source, report.ok, report.complete, report.findings), output)
    if not report.ok:
        raise CommandError(
            ExitCode.FAILED, f"{len(report.failures)} checks failed", "do not trust these records; keep a copy of them"
        )


def _one_job(document: IO[bytes] | None, job: str) -> TrainingJob | None:
    if document is None:
        return None
    found = [each for each in read_jobs(document) if each.metadata.name == job]
    if len(found) != 1:
        raise CommandError(
            ExitCode.REFUSED, f"the file holds {len(found)} documents of job {job}", "give the right file"
        )
    return found[0]


def _evidence(folder: Path) -> Evidence:
    if not folder.is_dir():
        raise CommandError(
            ExitCode.NOT_FOUND,
            f"{folder} does not exist: nothing of this job was published",
            "name it: --published DIR",
        )
    try:
        return read_bundle(folder)
    except OSError as error:
        raise CommandError(
            ExitCode.FAILED, f"{error.filename}: {error.strerror}", "make the folder readable, or copy it"
        ) from error


def _fleet_of(evidence: Evidence) -> str:
    """What the first readable record says; a lie there is found out, because it names another job."""
    for content in evidence.records.values():
        try:
            return decode_document(RoundRecord, content).body.fleet
        except DocumentError:
            continue
    raise CommandError(ExitCode.REFUSED, "no record is readable, so the fleet is not known", "name it: --fleet NAME")


def _chain_view(urls: Sequence[str], manifest: Path, name: bytes) -> PublicView:
    async def read() -> PublicView:
        deployment = read_manifest(manifest)
        async with JsonRpc(urls, chain_id=deployment.chain_id) as rpc:
            return await ChainReader(rpc, deployment).view(name)

    try:
        return asyncio.run(read())
    except RpcUnavailableError as error:
        raise CommandError(ExitCode.UNREACHABLE, f"no node answered: {error}", "try another --rpc") from error
    except (SettlementError, OSError) as error:
        raise CommandError(ExitCode.REFUSED, str(error), "do --rpc and --manifest belong together?") from error


def _ledger_lines(ledger: IO[bytes] | None, socket: Path) -> list[bytes]:
    if ledger is not None:
        return ledger.read().splitlines()
    with ApiClient(socket) as client:
        return client.ledger()


def _ledger_view(
    lines: list[bytes], evidence: Evidence, members: Sequence[str], threshold: int | None, name: bytes
) -> PublicView:
    committee = frozenset(_address(member) for member in members)
    if not committee:
        committee = _signers_of(evidence)
        warn("the committee is taken from the records themselves; pin it with --member ADDRESS")
    try:
        return read_ledger(lines, name, committee, threshold or max(1, len(committee)))
    except LedgerCorruptError as error:
        raise CommandError(
            ExitCode.FAILED, f"the ledger is not in order: {error}", "keep a copy, and compare it with an older one"
        ) from error


def _signers_of(evidence: Evidence) -> frozenset[bytes]:
    signers: set[bytes] = set()
    for content in evidence.records.values():
        try:
            record = decode_document(RoundRecord, content)
        except DocumentError:
            continue
        signers |= {hex_bytes(signature.signer) for signature in record.signatures}
    return frozenset(signers)


def _address(text: str) -> bytes:
    if _ADDRESS.fullmatch(text) is None:
        raise click.UsageError(f"{text!r} is no address; write 0x and 40 hexadecimal digits")
    return bytes.fromhex(text[2:])


def _report(evidence: Evidence, view: PublicView, specification: TrainingJob | None) -> AuditReport:
    budget: int | None = None
    extra: tuple[Finding, ...] = ()
    if specification is not None:
        same = spec_hash(specification) == view.spec_hash
        detail = "" if same else f"its hash is 0x{spec_hash(specification).hex()}, published 0x{view.spec_hash.hex()}"
        extra = (Finding("job", "the document is the job's", Status.OK if same else Status.FAIL, detail),)
        if same:
            budget = 0 if specification.spec.rewards is None else int(specification.spec.rewards.per_round)
    recompute = aggregate_recomputer(evidence) if evidence.files else None
    report = audit_job(evidence, view, round_budget=budget, recompute_aggregate=recompute)
    return AuditReport(report.source, (*extra, *report.findings))


def _warn_small(view: PublicView) -> None:
    small = [checkpoint for _, checkpoint in view.checkpoints if checkpoint.participants < SECURE_FLOOR]
    if small:
        fewest = min(checkpoint.participants for checkpoint in small)
        warn(f"{len(small)} rounds with as few as {fewest} participants: below the secure floor of {SECURE_FLOOR}")


def _show(report: ReportView, output: Output) -> None:
    if structured(report, output):
        return
    shown = [each for each in report.findings if output is Output.WIDE or each.status is not Status.OK]
    if shown:
        print_table(
            ("STATUS", "WHERE", "CHECK", "DETAIL"),
            [(str(each.status), each.path, each.check, each.detail) for each in shown],
        )
    counts = {status: sum(each.status is status for each in report.findings) for status in Status}
    click.echo(
        f"{plain(report.job)}: {counts[Status.OK]} checks ok, {counts[Status.FAIL]} failed, "
        f"{counts[Status.UNCHECKED]} could not be made; against {plain(report.source)}"
    )
