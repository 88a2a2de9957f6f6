import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedge_coordinator.cli.rendering import age, cohort, numbers, plain, print_table


@given(st.text())
def test_nothing_that_a_device_sends_can_steer_a_terminal(text: str):
    assert plain(text).isprintable()
    assert len(plain(text)) == len(text)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0s"), (119, "119s"), (120, "2m"), (7_300, "2h"), (200_000, "2d"), (-5, "0s")]
)
def test_ages_are_short(seconds: int, shown: str):
    assert age(1_000_000_000, 1_000_000_000 + seconds * 1000) == shown


def test_a_cohort_below_the_floor_says_so():
    assert cohort(3, 8, below=True) == "3-8, below the secure floor of 16"
    assert cohort(16, 32, below=False) == "16-32"


def test_metrics_are_sorted_and_short():
    assert numbers({"loss": 0.123456, "accuracy": 0.5}) == "accuracy=0.5 loss=0.1235"
    assert numbers({}) == "-"


def test_a_table_cuts_nothing_and_interprets_no_markup(capsys: pytest.CaptureFixture[str]):
    print_table(("NAME", "TEXT"), [("a", "x" * 300), ("[red]b[/red]", "\x1b[31m")])
    shown = capsys.readouterr().out.splitlines()
    assert [line.split() for line in shown] == [["NAME", "TEXT"], ["a", "x" * 300], ["[red]b[/red]", "\ufffd[31m"]]
