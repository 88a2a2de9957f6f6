import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge_coordinator.cli.documents import (
    MAX_TEXT_BYTES,
    DocumentError,
    fault_lines,
    read_documents,
    training_job,
)
from fedge_protocol.jobspec import JobSpecError

JOB = b"""\
# a comment
apiVersion: fedge.dev/v1alpha1
kind: TrainingJob
metadata:
  name: digits
spec:
  model:
    input: 64
    layers:
      - {dense: 32, activation: relu}
      - dense: 10
    loss: softmax-cross-entropy
  data: {source: digits, kind: directory}
  training:
    learningRate: 1e-3
    clipNorm: 1
  cohort: {minimum: 16, target: 32}
  rollout:
    rounds: 3
"""


def test_a_job_is_read_with_the_lines_of_its_values():
    (document,) = read_documents(JOB)
    assert training_job(document).spec.training.learning_rate == 0.001
    assert document.line_of(("spec", "training", "clipNorm")) == 16
    assert document.line_of(("spec", "model", "layers", 1, "dense")) == 11
    assert document.line_of(("spec", "training", "epochs")) == 14


def test_every_fault_is_shown_with_its_line_in_the_order_of_the_text():
    text = JOB.replace(b"rounds: 3", b"rounds: 0").replace(b"clipNorm", b"clipNrm").replace(b"  name: digits", b"  {}")
    (document,) = read_documents(text)
    with pytest.raises(JobSpecError) as caught:
        training_job(document)
    assert fault_lines(document, caught.value, "job.yaml") == (
        "job.yaml:4: metadata.name: is missing; expected 1 to 48 characters of lower-case letters, digits and '-'",
        "job.yaml:14: spec.training.clipNorm: is missing; expected number > 0 and <= 1e+09",
        "job.yaml:16: spec.training.clipNrm: unknown field; did you mean 'clipNorm'?",
        "job.yaml:19: spec.rollout.rounds: expected int 1 to 1000000, got 0",
    )


def test_several_documents_and_json_are_read():
    first, second = read_documents(b"a: 1\n---\nb: 2\n")
    assert (first.data, second.data, second.line_of(("b",))) == ({"a": 1}, {"b": 2}, 3)
    assert read_documents(b'{"a": [1, 2.5, null, true, "x"]}')[0].data == {"a": [1, 2.5, None, True, "x"]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("12", 12),
        ("012", "012"),
        ("1_000", "1_000"),
        ("on", "on"),
        ("no", "no"),
        ("2026-11-21", "2026-11-21"),
        ("12:30:45", "12:30:45"),
        (".inf", ".inf"),
        ("0x10", "0x10"),
        ('"1"', "1"),
        ("~", None),
        ("<<", "<<"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object):
    assert read_documents(f"a: {text}".encode())[0].data == {"a": value}


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        (b"a: 1\nb: [", "not YAML", 2),
        (b"a: 1\na: 2\n", "key 'a' is there twice, first at line 1", 2),
        (b"a: &x [1]\nb: *x\n", "aliases", 1),
        (b"a: 1\nb: !!python/object:os.system x\n", "tag", 2),
        (b"a: !!int x", "no number", 1),
        (b"a: !!set {x}", "tag", 1),
        (b"? [a]\n: 1\n", "a key must be text", 1),
        (b"a: 1\n\xff", "not UTF-8", 2),
        (b"a: \x00", "not YAML", 1),
        (b"", "0 documents", 1),
        (b"[" * 5000, "nested too deeply|not YAML", 1),
        (b"a: {b: " * 50, "not YAML", 1),
        (b"#" * (MAX_TEXT_BYTES + 1), "more than", 1),
        (b"a: " + b"9" * 5000, "no number", 1),
        (b"---\n" * 100, "documents", 1),
    ],
)
def test_text_that_is_not_taken_is_refused_with_its_line(text: bytes, message: str, line: int):
    with pytest.raises(DocumentError, match=message) as caught:
        read_documents(text)
    assert caught.value.line == line


YAMLISH = st.text(alphabet="ab:-[]{}&*!|>'\"#%@, \n\t019.eE~?", max_size=60)


@settings(max_examples=400, deadline=None)
@given(st.one_of(YAMLISH.map(str.encode), st.binary(max_size=60)))
def test_no_text_raises_anything_but_a_named_error(text: bytes):
    try:
        documents = read_documents(text)
    except DocumentError:
        return
    for document in documents:
        with pytest.raises(JobSpecError) as caught:
            training_job(document)
        assert fault_lines(document, caught.value, "x")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(JOB) - 1), st.binary(min_size=1, max_size=3))
def test_a_damaged_document_is_valid_or_refused(position: int, junk: bytes):
    try:
        for document in read_documents(JOB[:position] + junk + JOB[position + 1 :]):
            training_job(document)
    except (DocumentError, JobSpecError):
        return
