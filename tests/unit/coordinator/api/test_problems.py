import pytest

from fedge_coordinator.api.problem import ProblemKind
from fedge_coordinator.api.problems import problem_of
from fedge_coordinator.store.errors import JobStateError, ModelChangedError, NotFoundError, StoreUnavailableError
from fedge_protocol.faults import Fault
from fedge_protocol.jobspec import JobSpecError


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (NotFoundError("no job named 'x'"), ProblemKind.NOT_FOUND, 404),
        (ModelChangedError("x"), ProblemKind.MODEL_CHANGED, 409),
        (JobStateError("x"), ProblemKind.WRONG_STATE, 409),
        (StoreUnavailableError("disk full"), ProblemKind.UNAVAILABLE, 503),
        (KeyError("secret"), ProblemKind.INTERNAL, 500),
    ],
)
def test_every_error_has_a_kind_a_status_and_a_cure(error: Exception, kind: ProblemKind, status: int):
    problem = problem_of(error)
    assert (problem.kind, problem.status) == (kind, status)
    assert problem.cure


def test_an_unforeseen_error_shows_its_type_and_not_its_message():
    assert problem_of(KeyError("secret")).detail == "the coordinator failed: KeyError"


def test_an_invalid_document_lists_its_faults():
    problem = problem_of(JobSpecError([Fault(("spec", "training", "epochs"), "expected int"), Fault((), "x")]))
    assert problem.detail == "2 faults in the document"
    assert [fault.path for fault in problem.faults] == ["spec.training.epochs", "document"]
