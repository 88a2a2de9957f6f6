"""`fedgectl apply`: put job documents in force."""

from pathlib import Path
from typing import IO

import click

from fedge_coordinator.api.model_check import check_model
from fedge_coordinator.cli.client import ApiClient
from fedge_coordinator.cli.documents import (
    MAX_TEXT_BYTES,
    DocumentError,
    fault_lines,
    read_documents,
    training_job,
)
from fedge_coordinator.cli.failures import CommandError, ExitCode
from fedge_coordinator.cli.options import output_option, socket_option
from fedge_coordinator.cli.rendering import Output, as_json, as_yaml, warn
from fedge_protocol.jobspec import JobSpecError, TrainingJob


@click.command()
@click.option("-f", "--file", "files", type=click.File("rb"), multiple=True, required=True, help="YAML or JSON; - reads standard input. Repeatable.")  # fmt: skip  # noqa: E501
@click.option("--dry-run", is_flag=True, help="Check everything and say what would change; change nothing.")
@output_option(Output.TABLE, Output.JSON, Output.YAML, Output.NAME)
@socket_option
def apply(files: tuple[IO[bytes], ...], dry_run: bool, output: Output, socket: Path) -> None:  # noqa: FBT001 - click
    r"""Put training jobs in force: new ones are created, known ones updated.

    Every fault of every document is listed with its line before anything is changed.

    \b
    Examples:
      fedgectl apply -f training-job.yaml
      fedgectl apply -f training-job.yaml --dry-run
      generate-job | fedgectl apply -f -
    """
    jobs = [job for file in files for job in read_jobs(file)]
    with ApiClient(socket) as client:
        applied = [client.apply(job, dry_run=dry_run) for job in jobs]
    for each in applied:
        for text in each.warnings:
            warn(f"job {each.name}: {text}")
    match output:
        case Output.JSON:
            click.echo(as_json(applied))
        case Output.YAML:
            click.echo(as_yaml(applied), nl=False)
        case Output.NAME:
            click.echo("".join(f"job/{each.name}\n" for each in applied), nl=False)
        case _:
            for each in applied:
                click.echo(f"job/{each.name} {each.outcome}{' (dry run)' if each.dry_run else ''}")


def read_jobs(file: IO[bytes]) -> list[TrainingJob]:
    """All jobs of one file.

    Raises:
        CommandError: with every fault and its line.
    """
    name = "standard input" if file.name in ("<stdin>", "-") else str(file.name)
    try:
        documents = read_documents(file.read(MAX_TEXT_BYTES + 1))
    except DocumentError as error:
        raise CommandError(ExitCode.REFUSED, f"{name}:{error.line}: {error}", "correct that line") from error
    found: list[str] = []
    jobs = []
    for document in documents:
        try:
            job = training_job(document)
            check_model(job)
            jobs.append(job)
        except JobSpecError as error:
            found += fault_lines(document, error, name)
    if found:
        count = f"{len(found)} fault{'s' * (len(found) > 1)}"
        raise CommandError(
            ExitCode.REFUSED, f"{count} in {name}; nothing was applied", "correct these lines", tuple(found)
        )
    return jobs
