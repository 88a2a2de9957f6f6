from collections.abc import Iterator

import click
import pytest

from fedge_coordinator.cli.describing import _round_name
from fedge_coordinator.cli.root import fedgectl, run
from fedge_coordinator.cli.steering import job_name


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            part = command.get_command(context, name)
            assert part is not None
            yield from commands(part, (*path, name))


ALL = dict(commands(fedgectl))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_explains_itself_with_an_example(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    assert run([*path, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Example" in shown
    assert "\n    fedge" in shown
    assert "\\b" not in shown


def test_the_exit_codes_are_documented(capsys: pytest.CaptureFixture[str]):
    run(["--help"])
    shown = capsys.readouterr().out
    for code in ("0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "130 "):
        assert f"\n    {code}" in shown


def test_wrong_usage_is_two(capsys: pytest.CaptureFixture[str]):
    assert run(["get", "unicorns"]) == 2
    assert run(["describe", "round", "digits"]) == 2
    assert run(["audit", "digits", "--rpc", "http://127.0.0.1:1"]) == 2
    assert "No such command 'unicorns'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "name"),
    [(("digits",), "digits"), (("job", "digits"), "digits"), (("job/digits",), "digits"), (("job",), "job")],
)
def test_a_job_may_be_named_in_three_ways(words: tuple[str, ...], name: str):
    assert job_name(words) == name


def test_two_jobs_at_once_are_refused():
    with pytest.raises(click.UsageError):
        job_name(("digits", "watch"))


def test_rounds_are_named_by_job_number_and_attempt():
    assert _round_name("digits/3") == ("digits", 3, None)
    assert _round_name("digits/3/1") == ("digits", 3, 1)
    for wrong in ("digits", "digits/x", "digits/3/1/2", "digits/-1", "digits/3/"):
        with pytest.raises(click.UsageError):
            _round_name(wrong)
