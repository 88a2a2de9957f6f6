"""The demonstration's data and job: what they promise, on the real recordings."""

import hashlib
import io
import pickle
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml

from fedge_agent.training.interpreter import TrainableModel
from fedge_agent.training.local_update import parse_weights, train_locally
from fedge_agent.training.pipe import Source, Train
from fedge_agent.training.sources import load_samples
from fedge_coordinator.demo import dataset
from fedge_coordinator.demo.dataset import CLASSES, FEATURES, DatasetError, Recording, load_recordings, prepare
from fedge_coordinator.modelkit.bundle import build_bundle
from fedge_coordinator.modelkit.spec import parse_model_spec
from fedge_protocol.jobspec import TrainingJob, model_section, parse

JOB = Path(__file__).parents[3] / "deploy" / "examples" / "watch-training-job.yaml"


@pytest.fixture(scope="module")
def recordings():
    try:
        return load_recordings()
    except DatasetError as error:
        if "is not installed" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def job():
    return msgspec.convert(yaml.safe_load(JOB.read_text()), TrainingJob)


def rows_of(path):
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["x"], arrays["y"]


def test_every_device_gets_one_person_and_two_people_are_held_out(recordings, tmp_path):
    assert {r.person for r in recordings} == set(range(1, 11))
    prepared = prepare(tmp_path / "data", recordings=recordings)
    assert [path.name for path in prepared.devices] == [f"device-{k}.npz" for k in range(8)]
    assert [unseen.path.name for unseen in prepared.unseen] == ["heldout-9.npz", "heldout-10.npz"]
    for path in (*prepared.devices, *(unseen.path for unseen in prepared.unseen)):
        x, y = rows_of(path)
        assert x.shape == (len(y), FEATURES)
        assert x.dtype == np.float32
        assert np.isfinite(x).all()
        assert np.abs(x).max() <= 5
        assert set(y) == set(range(len(CLASSES)))
    for unseen in prepared.unseen:
        _, y = rows_of(unseen.path)
        assert unseen.windows == len(y)
        assert unseen.majority_accuracy == max(np.mean(y == label) for label in range(7))


def test_more_devices_share_a_persons_windows_and_lose_none(recordings, tmp_path):
    whole = prepare(tmp_path / "eight", recordings=recordings)
    split = prepare(tmp_path / "nineteen", devices=19, recordings=recordings)
    assert len(split.devices) == 19
    sizes = [len(rows_of(path)[1]) for path in split.devices]
    for person in range(8):
        assert sum(sizes[person::8]) == len(rows_of(whole.devices[person])[1])
    first = np.concatenate([rows_of(split.devices[k])[0] for k in (0, 8, 16)])
    np.testing.assert_array_equal(np.unique(first, axis=0), np.unique(rows_of(whole.devices[0])[0], axis=0))


def test_fewer_devices_are_the_first_people(recordings, tmp_path):
    few = prepare(tmp_path / "three", devices=3, recordings=recordings)
    whole = prepare(tmp_path / "eight", recordings=recordings)
    assert len(few.devices) == 3
    for left, right in zip(few.devices, whole.devices[:3], strict=True):
        np.testing.assert_array_equal(rows_of(left)[0], rows_of(right)[0])


def test_the_seed_orders_the_windows_and_changes_none(recordings, tmp_path):
    one, same, other = (
        rows_of(prepare(tmp_path / str(n), devices=1, seed=s, recordings=recordings).devices[0])[0]
        for n, s in enumerate((1, 1, 2))
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(np.unique(one, axis=0), np.unique(other, axis=0))


def test_a_persons_features_do_not_depend_on_anybody_else(recordings, tmp_path):
    alone = [recording for recording in recordings if recording.person in {1, 9, 10}]
    together = prepare(tmp_path / "all", devices=1, recordings=recordings)
    np.testing.assert_array_equal(
        rows_of(prepare(tmp_path / "alone", devices=1, recordings=alone).devices[0])[0], rows_of(together.devices[0])[0]
    )


def test_a_motionless_watch_has_finite_features():
    still = [Recording(person, label, np.zeros((300, 6))) for person in (1, 9, 10) for label in range(7)]
    for recording in still:
        windows = recording.motion[:128][None]
        assert np.isfinite(dataset.features(windows)).all()


def test_another_file_is_refused(tmp_path):
    fake = tmp_path / "watch_dataset.npy"
    fake.write_bytes(b"\x93NUMPY" + bytes(100))
    with pytest.raises(DatasetError, match="expected eb122f23"):
        load_recordings(fake)


@dataclass
class Trap:
    path: str

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


def test_a_pickle_that_calls_something_is_refused_even_with_the_right_hash(tmp_path, monkeypatch):
    fake, sprung = tmp_path / "watch_dataset.npy", tmp_path / "sprung"
    stream = io.BytesIO()
    np.save(stream, np.array(Trap(str(sprung)), dtype=object), allow_pickle=True)
    fake.write_bytes(stream.getvalue())
    monkeypatch.setattr(dataset, "FILE_SHA256", hashlib.sha256(stream.getvalue()).hexdigest())
    with pytest.raises((DatasetError, pickle.UnpicklingError), match="only arrays are admitted"):
        load_recordings(fake)
    assert not sprung.exists()


def test_the_example_job_is_a_valid_document(job):
    assert parse(yaml.safe_load(JOB.read_text())) == job


def test_the_example_job_fits_the_data(job):
    spec = parse_model_spec(model_section(job))
    assert spec.input_dim == FEATURES
    assert spec.output_dim == len(CLASSES)
    assert job.spec.cohort.minimum < job.spec.cohort.target == 8


def federate(job: TrainingJob, prepared: dataset.Prepared, *, seed: int, one_missing: bool):
    """Accuracy (rounds, people) of federated averaging as the job says, with the devices' own training code."""
    spec = parse_model_spec(model_section(job) | {"seed": seed})
    bundle, training = build_bundle(spec), job.spec.training
    model = TrainableModel(bundle.graph)
    weights = parse_weights(bundle.weights, model.dim)

    def load(path):
        return load_samples(Source("directory", "watch", str(path)), input_dim=FEATURES, output_dim=len(CLASSES))

    devices, unseen = [load(p) for p in prepared.devices], [load(u.path) for u in prepared.unseen]
    accuracies = []
    for number in range(job.spec.rollout.rounds):
        deltas, counts = [], []
        for device, samples in enumerate(devices):
            if one_missing and device == (number + seed) % len(devices):
                continue
            request = Train(
                graph_path="unused",
                weights_path="unused",
                source=Source("directory", "watch", "unused"),
                epochs=training.epochs,
                learning_rate=training.learning_rate,
                momentum=training.momentum,
                proximal_mu=training.proximal_mu,
                shuffle_seed=1000 * seed + 10 * number + device,
                clip_norm=training.clip_norm,
                max_samples=training.max_samples,
            )
            update = train_locally(model, weights, samples, request, lambda epoch, loss: None)
            deltas.append(update.delta)
            counts.append(min(-(-update.samples // training.weight_unit), training.weight_max))
        weights = (weights + np.average(deltas, axis=0, weights=counts)).astype(np.float32)
        model.set_weights(weights)
        accuracies.append([model.evaluate(people.x, people.y)[1] / len(people.x) for people in unseen])
    return np.array(accuracies)


@pytest.mark.parametrize(("seed", "one_missing"), [(1, False), (1, True), (2, True)])
def test_the_example_job_learns_what_helps_people_it_never_saw(recordings, job, tmp_path, seed, one_missing):
    prepared = prepare(tmp_path / "data", recordings=recordings)
    accuracy = federate(job, prepared, seed=seed, one_missing=one_missing)
    majority = np.array([unseen.majority_accuracy for unseen in prepared.unseen])
    assert (accuracy[-1] >= accuracy[0] + 0.15).all()
    assert (accuracy[-1] >= majority + 0.4).all()
