import copy
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge_protocol import jobspec, messages
from fedge_protocol.faults import MAX_NODES, path_of, path_text
from fedge_protocol.jobspec import JobSpecError, Strategy, Suite, TrainingJob

EXAMPLES = Path(__file__).parents[3] / "deploy" / "examples"
Document = dict[str, Any]


def document(**changes: object) -> Document:
    spec: Document = {
        "model": {"input": 64, "layers": [{"dense": 10}], "loss": "softmax-cross-entropy"},
        "data": {"source": "digits", "kind": "directory"},
        "training": {"learningRate": 0.1, "clipNorm": 1},
        "cohort": {"minimum": 16, "target": 32},
        "rollout": {"rounds": 3},
    }
    for name, section in changes.items():
        spec[name] = spec.get(name, {}) | section if isinstance(section, dict) else section
    return {"apiVersion": "fedge.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "digits"}, "spec": spec}


def faults_of(value: object) -> list[str]:
    with pytest.raises(JobSpecError) as caught:
        jobspec.parse(value)
    return [str(fault) for fault in caught.value.faults]


def test_defaults_fill_in_what_a_short_document_leaves_out():
    job = jobspec.parse(document())
    assert job.spec.aggregation.suite is Suite.CHACHA20
    assert job.spec.aggregation.strategy is Strategy.FEDAVG
    assert (job.spec.training.epochs, job.spec.training.batch_size, job.spec.rewards) == (1, 16, None)
    assert jobspec.warnings_of(job) == ()


def test_every_fault_is_listed_with_its_path():
    broken = document(training={"epochs": 0, "learningRate": "0.1", "momentum": 1, "epochz": 3}, cohort={"target": 1})
    del broken["metadata"]
    assert faults_of(broken) == [
        "spec.training.learningRate: expected number > 0 and <= 1e+09, got '0.1' (text; remove the quotes)",
        "spec.training.epochs: expected int 1 to 1000, got 0",
        "spec.training.momentum: expected number >= 0 and < 1, got 1",
        "spec.training.epochz: unknown field; did you mean 'epochs'?",
        "spec.cohort.target: expected int 2 to 4096, got 1",
        "metadata: is missing; expected a mapping",
    ]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"data": {"source": "../etc"}}, "spec.data.source: expected a name of lower-case letters"),
        ({"data": {"source": "digits\n"}}, "spec.data.source: expected a name"),
        ({"data": {"kind": "directoy"}}, "did you mean 'directory'?"),
        ({"training": {"clipNorm": math.nan}}, "spec.training.clipNorm: expected a finite number, got nan"),
        ({"training": {"epochs": True}}, "spec.training.epochs: expected int 1 to 1000, got a boolean"),
        ({"training": {"epochs": 2**70}}, "spec.training.epochs: integer does not fit 64 bits"),
        ({"model": {"layers": []}}, "spec.model.layers: expected a list of at least 1 and at most 32 entries, got 0"),
        ({"model": {"layers": [{"dense": [1]}]}}, "spec.model.layers[0].dense: expected int or number or text"),
        ({"model": {"input": {1: 2}}}, "spec.model.input: expected text as key, got 1; put it in quotes"),
        ({"aggregation": {"mode": "open"}}, "spec.aggregation.mode: mode 'open' is not built yet; use secure"),
        ({"aggregation": {"mode": "magic"}}, "spec.aggregation.mode: expected secure, got 'magic'"),
        ({"rewards": {"perRound": 1000}}, "(a number; put it in quotes)"),
        ({"rewards": {"perRound": str(2**128)}}, "does not fit 128 bits"),
        ({"rewards": {"perRound": "01"}}, 'expected token units as quoted digits, such as "1000000"'),
        ({"rollout": {"rounds": 3, "pause": 1}}, "spec.rollout.pause: unknown field; did you mean 'pauseSeconds'?"),
    ],
)
def test_a_value_that_is_wrong_is_named_with_its_cure(changes: Document, fault: str):
    (found,) = faults_of(document(**changes))
    assert fault in found


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"cohort": {"minimum": 20, "target": 18}}, "spec.cohort.target: 18 is below spec.cohort.minimum 20"),
        ({"cohort": {"minimum": 15}}, "15 is below the secure floor of 16"),
        ({"privacy": {"floor": 17}}, "spec.privacy.floor: 17 exceeds spec.cohort.minimum 16"),
        ({"aggregation": {"strategy": "fedprox"}}, "spec.training.proximalMu: strategy fedprox needs a value above 0"),
        ({"training": {"proximalMu": 0.1}}, "strategy fedavg has no proximal term"),
    ],
)
def test_fields_that_contradict_one_another_are_named(changes: Document, fault: str):
    (found,) = faults_of(document(**changes))
    assert fault in found


def test_a_small_cohort_must_be_accepted_and_is_then_shown():
    (found,) = faults_of(document(cohort={"minimum": 3}))
    assert "spec.cohort.allowSmallCohort: true" in found
    job = jobspec.parse(document(cohort={"minimum": 3, "allowSmallCohort": True}))
    assert job.below_secure_floor
    assert jobspec.warnings_of(job) == ("cohort of 3 is below the secure floor of 16",)


def test_a_field_that_this_version_does_not_enforce_is_said_to_be():
    job = jobspec.parse(document(admission={"requireExternalPower": True}))
    assert "does not send it to devices" in jobspec.warnings_of(job)[0]


def test_equal_documents_have_equal_bytes_whatever_their_order_and_spelling():
    first = document(training={"learningRate": 1, "epochs": 1})
    second = {name: first[name] for name in reversed(first)}
    second["spec"] = {name: first["spec"][name] for name in reversed(first["spec"])} | {"privacy": {"floor": None}}
    second["spec"]["training"] = {"clipNorm": 1.0, "learningRate": 1.0}
    assert jobspec.canonical(jobspec.parse(first)) == jobspec.canonical(jobspec.parse(second))


def test_the_hash_of_a_document_never_changes_between_versions():
    # devices and the chain hold this hash: a change of defaults or of the encoding breaks running jobs
    assert (
        jobspec.spec_hash(jobspec.parse(document())).hex()
        == "a8e4c33a44bb60e87576ad87eeb427e6620f1c68ee58bcc6e062081bb6d340cd"
    )


def test_a_parsed_document_parses_again_to_the_same():
    job = jobspec.parse(document(rewards={"perRound": "5"}, admission={"maxTemperatureCelsius": 60}))
    assert jobspec.parse(msgspec.json.decode(jobspec.canonical(job))) == job


def test_a_document_determines_the_training_and_cohort_of_an_offer():
    job = jobspec.parse(document(cohort={"minimum": 3, "allowSmallCohort": True}))
    spec = job.spec
    offered = messages.Training(
        source=spec.data.source,
        epochs=spec.training.epochs,
        learning_rate=spec.training.learning_rate,
        momentum=spec.training.momentum,
        proximal_mu=spec.training.proximal_mu,
        clip_norm=spec.training.clip_norm,
        max_samples=spec.training.max_samples,
        weight_unit=spec.training.weight_unit,
        weight_max=spec.training.weight_max,
    )
    cohort = messages.Cohort(spec.cohort.minimum, spec.cohort.target, spec.cohort.allow_small_cohort)
    for value in (offered, cohort):
        assert msgspec.convert(msgspec.to_builtins(value), type(value)) == value
    assert [suite.number for suite in Suite] == [1, 2]


def test_the_bounds_of_a_document_are_within_those_of_an_offer():
    def bounds(kind: type[msgspec.Struct], names: dict[str, str]) -> dict[str, msgspec.inspect.Type]:
        info = msgspec.inspect.type_info(kind)
        assert isinstance(info, msgspec.inspect.StructType)
        return {names.get(field.name, field.name): field.type for field in info.fields}

    training = bounds(jobspec.Training, {})
    for name, kind in bounds(messages.Training, {}).items():
        assert name == "source" or training[name] == kind, name
    cohort = bounds(jobspec.Cohort, {"allow_small_cohort": "allow_small"})
    for name, kind in bounds(messages.Cohort, {}).items():
        assert cohort[name] == kind, name


def test_the_batch_belongs_to_the_model():
    first, second = jobspec.parse(document()), jobspec.parse(document(training={"batchSize": 32}))
    assert jobspec.model_section(first) != jobspec.model_section(second)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*training-job.yaml")), ids=lambda path: path.name)
def test_the_shipped_examples_are_valid(path: Path):
    assert isinstance(jobspec.parse(yaml.safe_load(path.read_bytes())), TrainingJob)


def test_there_is_an_example():
    assert list(EXAMPLES.glob("*training-job.yaml"))


def test_endless_documents_are_refused():
    endless: list[object] = []
    endless.append(endless)
    assert "nested more than" in faults_of(document(model={"layers": endless}))[0]
    assert faults_of(document(model={"layers": [{}] * (MAX_NODES + 1)})) == [f"document: more than {MAX_NODES} values"]


@given(st.lists(st.one_of(st.integers(0, 99), st.from_regex(r"[a-zA-Z]{1,8}", fullmatch=True)), min_size=1))
def test_a_path_reads_back(parts: list[str | int]):
    path = ("spec", *parts)
    assert path_of(path_text(path)) == path


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["secure", "open", "fedprox", "TrainingJob", "1000", "directory"]),
    st.dates(),
    st.binary(max_size=5),
)
NAMES = st.one_of(
    st.text(max_size=10),
    st.sampled_from(["apiVersion", "kind", "metadata", "spec", "name", "model", "training", "epochs", "layers"]),
    st.integers(),
    st.none(),
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(ANYTHING)
def test_nothing_but_a_named_error_comes_out_of_arbitrary_data(value: object):
    with pytest.raises(JobSpecError) as caught:
        jobspec.parse(value)
    assert caught.value.faults


PATHS = [
    ("apiVersion",),
    ("metadata",),
    ("metadata", "name"),
    ("metadata", "labels"),
    *(
        ("spec", name)
        for name in ("model", "data", "training", "cohort", "rollout", "rewards", "privacy", "aggregation")
    ),
    *(("spec", "training", name) for name in ("epochs", "learningRate", "momentum", "extra")),
    *(("spec", "model", name) for name in ("input", "layers", "seed", "loss")),
    ("spec", "cohort", "minimum"),
    ("spec", "aggregation", "mode"),
    ("spec", "rewards", "perRound"),
]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(PATHS), ANYTHING)
def test_a_document_with_one_strange_value_is_valid_or_refused_and_never_anything_else(
    path: tuple[str, ...], value: object
):
    strange = copy.deepcopy(document(rewards={"perRound": "1"}, aggregation={"mode": "secure"}))
    place = strange
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    try:
        job = jobspec.parse(strange)
    except JobSpecError:
        return
    assert jobspec.parse(msgspec.json.decode(jobspec.canonical(job))) == job
