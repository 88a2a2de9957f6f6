"""Whether the model kit can build the model of a job."""

from fedge_coordinator.modelkit.spec import ModelSpecError, parse_model_spec
from fedge_protocol import jobspec
from fedge_protocol.faults import Fault, path_of
from fedge_protocol.jobspec import JobSpecError, TrainingJob


def check_model(job: TrainingJob) -> None:
    """Refuse a model that the model kit cannot build.

    Raises:
        JobSpecError: with the path of the entry at fault.
    """
    try:
        parse_model_spec(jobspec.model_section(job), "spec.model")
    except ModelSpecError as error:
        path = path_of(error.path.replace("spec.model.batchSize", "spec.training.batchSize"))
        raise JobSpecError([Fault(path, str(error).removeprefix(f"{error.path}: "))]) from error
