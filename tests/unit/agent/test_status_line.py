"""Every state the daemon can be in has its line: state, round, reason."""

import re
from pathlib import Path
from typing import Any

import pytest

from fedge_agent import waiting
from fedge_agent.admission.machine import Decision
from fedge_agent.federation.machine import State
from fedge_agent.status_line import MAX_CHARS, RoundNow, Situation, status_line
from fedge_protocol.conditions import ConditionReason as Reason
from fedge_protocol.conditions import ConditionState as Admission
from fedge_protocol.messages import NoOffer

NO_JOB = Decision(Admission.IDLE, Reason.NO_JOB, "no job asks for training", 0.0)
BUSY = Decision(Admission.IDLE, Reason.CPU_PRESSURE, "CPU pressure 0.31 is over 0.15", 0.0)
RUNS = Decision(Admission.RUNNING, Reason.STARTED, "training", 0.0)
PAUSED = Decision(Admission.PAUSED, Reason.RUN_QUEUE, "run queue 4e+03 us is over 2000 us", 0.0)
OWNER = Decision(Admission.IDLE, Reason.OWNER, "paused by fedge-agent pause", 0.0)
TABLE: list[tuple[dict[str, Any], str]] = [
    ({"duplicate": "duplicate identity: two disks; cure: leave"}, "duplicate identity: two disks; cure: leave"),
    ({"connected": False}, "not connected to the broker; trying again"),
    ({"connected": False, "trouble": "refused"}, "not connected to the broker: refused; trying again"),
    ({"confirmed": False}, "connected; waiting for the coordinator to confirm this session"),
    ({}, "waiting for a round; none is offered now"),
    ({"waiting_for": NoOffer("digits", 4, finished=False)}, "waiting for a round; job digits offers round 4 next"),
    ({"waiting_for": NoOffer("digits", 4, finished=True)}, "waiting for a round; job digits is finished"),
    ({"admission": OWNER}, "waiting for a round; paused by its owner until fedge-agent resume"),
    ({"state": State.IDLE}, "job digits round 3: idle; it was just offered"),
    ({"state": State.FETCHING}, "job digits round 3: fetching the model; graph and weights come from the broker"),
    (
        {"state": State.WAITING, "admission": BUSY},
        "job digits round 3: waiting to be admitted; CPU pressure 0.31 is over 0.15",
    ),
    (
        {"state": State.WAITING, "admission": OWNER},
        "job digits round 3: waiting to be admitted; paused by fedge-agent pause",
    ),
    ({"state": State.TRAINING, "admission": RUNS}, "job digits round 3: training; 2 of 5 epochs done"),
    (
        {"state": State.TRAINING, "admission": PAUSED},
        "job digits round 3: training; 2 of 5 epochs done; paused: run queue 4e+03 us is over 2000 us",
    ),
    ({"state": State.READY}, "job digits round 3: ready; trained; waits until the coordinator closes the round"),
    ({"state": State.SHARING}, "job digits round 3: sharing keys; keys go to the other members of its bucket"),
    ({"state": State.MASKING}, "job digits round 3: masking; the worker masks the update"),
    ({"state": State.UPLOADED}, "job digits round 3: update uploaded; waits to hear whose updates came"),
    (
        {"state": State.SIGNED},
        "job digits round 3: survivors signed; waits until the others have signed whose updates came",
    ),
    ({"state": State.UNMASKED}, "job digits round 3: unmasking; shares are out; waits for the result"),
    ({"outcome": "included"}, "waiting; round 3 of job digits: included"),
    (
        {"outcome": "not-admitted", "detail": "CPU pressure 0.31 is over 0.15"},
        "waiting; round 3 of job digits: not-admitted (CPU pressure 0.31 is over 0.15)",
    ),
    (
        {"outcome": "aborted", "detail": "too-few-ready", "waiting_for": NoOffer("digits", 4, finished=False)},
        "waiting; round 3 of job digits: aborted (too-few-ready); job digits offers round 4 next",
    ),
    (
        {"outcome": "included", "admission": OWNER},
        "waiting; round 3 of job digits: included; paused by its owner until fedge-agent resume",
    ),
]


def situation(given: dict[str, Any]) -> Situation:
    values = dict(given)
    state, outcome, detail = values.pop("state", None), values.pop("outcome", ""), values.pop("detail", "")
    if state is not None or outcome:
        values["round"] = RoundNow("digits", 3, state or State.DONE, 2, 5, outcome, detail)
    return Situation(**{"admission": NO_JOB, **values})


@pytest.mark.parametrize(("given", "line"), TABLE, ids=[line for _, line in TABLE])
def test_a_situation_has_its_line(given, line):
    assert status_line(situation(given)) == line


def test_every_state_of_a_round_is_in_the_table():
    assert {given["state"] for given, _ in TABLE if "state" in given} == set(State) - {State.DONE}
    assert status_line(situation({"state": State.DONE})).startswith("job digits round 3: done; ")


def test_words_of_others_stay_one_bounded_line_that_tells_systemd_nothing_else():
    found = status_line(situation({"outcome": "refused", "detail": "x\nWATCHDOG=trigger\r\x1b[2J\u2028" + "y" * 900}))
    assert len(found) <= MAX_CHARS
    assert found.isprintable()
    assert re.search(r"refused \(x WATCHDOG=trigger", found)


def test_before_the_daemon_runs_the_line_says_what_it_waits_for(tmp_path: Path):
    told: list[str] = []
    waiting.until_clear(tmp_path, notify=told.append, sleep=lambda _: True)
    assert told[0] == "READY=1\nSTATUS=not enrolled: fedge-agent enroll TOKEN"
    (tmp_path / "leaving.json").touch()
    waiting.until_clear(tmp_path, notify=told.append, sleep=lambda _: True)
    assert told[3] == "READY=1\nSTATUS=leaving the fleet: fedge-agent leave, given again, finishes what was begun"
