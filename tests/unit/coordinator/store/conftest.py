from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedge_coordinator.store import Store, open_store
from fedge_protocol.jobspec import TrainingJob, parse


@dataclass
class ManualClock:
    now_ms: int = 1_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "coordinator.db"


@pytest.fixture
def store(path: Path, clock: ManualClock) -> Iterator[Store]:
    opened = open_store(path, clock_ms=clock)
    yield opened
    opened.close()


def document(**changes: object) -> dict[str, object]:
    spec: dict[str, object] = {
        "model": {"input": 64, "layers": [{"dense": 10}], "loss": "softmax-cross-entropy"},
        "data": {"source": "digits", "kind": "directory"},
        "training": {"learningRate": 0.1, "clipNorm": 1},
        "cohort": {"minimum": 16, "target": 32},
        "rollout": {"rounds": 3},
    }
    return {
        "apiVersion": "fedge.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "digits"},
        "spec": spec | changes,
    }


@pytest.fixture
def job() -> TrainingJob:
    return parse(document())


@pytest.fixture
def longer_job() -> TrainingJob:
    return parse(document(rollout={"rounds": 5}))


@pytest.fixture
def other_model() -> TrainingJob:
    return parse(document(model={"input": 64, "layers": [{"dense": 11}], "loss": "softmax-cross-entropy"}))
