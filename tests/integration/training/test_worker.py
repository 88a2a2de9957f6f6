"""The worker as a real process, under its supervisor."""

# ruff: noqa: ASYNC240 - nothing else runs in the loop of a test

import asyncio
import hashlib
import os
import re
import select
import signal
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fedge_agent.training.failure import Reason, TrainingError
from fedge_agent.training.interpreter import TrainableModel
from fedge_agent.training.local_update import parse_weights, train_locally
from fedge_agent.training.pipe import Pair, Progress, Source
from fedge_agent.training.sources import load_samples
from fedge_agent.training.supervisor import Worker
from fedge_coordinator.modelkit.bundle import build_bundle
from fedge_coordinator.modelkit.spec import parse_model_spec
from fedge_protocol.secagg.masking import expand
from fedge_protocol.secagg.params import Suite
from fedge_protocol.secagg.quantise import dequantise_sum
from fedge_protocol.secagg.rotation import unrotate


def expected_update(a_round):
    model = TrainableModel(a_round.bundle.graph)
    samples = load_samples(a_round.request.source, input_dim=model.input_dim, output_dim=model.output_dim)
    weights = parse_weights(a_round.bundle.weights, model.dim)
    return train_locally(model, weights, samples, a_round.request, lambda epoch, loss: None)


async def test_it_trains_and_reports_every_epoch(a_round):
    progress: list[Progress] = []
    async with Worker(a_round.directory, on_progress=progress.append) as worker:
        trained = await worker.train(a_round.request)
    update = expected_update(a_round)
    assert [(step.epoch, step.epochs) for step in progress] == [(epoch, 5) for epoch in range(1, 6)]
    assert trained.samples == 203
    assert trained.dim == a_round.bundle.parameter_count
    assert (trained.loss_first, trained.loss_last) == (progress[0].loss, progress[-1].loss)
    assert trained.loss_last < 0.7 * trained.loss_first
    assert trained.update_norm == pytest.approx(update.update_norm, rel=1e-5)
    assert not trained.clipped
    assert 0 < trained.step_cpu_seconds < trained.cpu_seconds


async def test_the_masked_vector_is_the_update_once_the_masks_are_taken_off(a_round, mask_request):
    peers = (Pair(sign=1, seed=b"a" * 32), Pair(sign=-1, seed=b"b" * 32))
    request = msgspec.structs.replace(mask_request, pairs=peers)
    async with Worker(a_round.directory) as worker:
        trained = await worker.train(a_round.request)
        masked = await worker.mask(request)
    out = Path(request.out_path)
    content = out.read_bytes()
    assert masked.sha256 == hashlib.sha256(content).digest()
    assert masked.size == len(content)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    vector = np.frombuffer(content, "<u2").copy()
    for sign, seed in ((1, request.self_seed), *((pair.sign, pair.seed) for pair in peers)):
        vector -= np.uint16(sign % 2**16) * expand(seed, len(vector), Suite.CHACHA20)
    rotated = dequantise_sum(vector, coordinate_range=1.0, levels=1000, weight_sum=3, weight_max=4)
    update = unrotate(rotated, trained.dim, request.rotation_seed)
    assert np.abs(update - expected_update(a_round).delta).max() < 4 / 3 * 6 / 1000
    assert np.linalg.norm(update) == pytest.approx(trained.update_norm, rel=0.02)


async def test_a_long_update_is_clipped(a_round, mask_request):
    async with Worker(a_round.directory) as worker:
        trained = await worker.train(a_round.changed(clip_norm=0.25))
        await worker.mask(msgspec.structs.replace(mask_request, weight=4))
    assert trained.clipped
    assert trained.update_norm > 0.25
    vector = np.frombuffer(Path(mask_request.out_path).read_bytes(), "<u2")
    plain = vector - expand(mask_request.self_seed, len(vector), Suite.CHACHA20)
    update = dequantise_sum(plain, coordinate_range=1.0, levels=1000, weight_sum=4, weight_max=4)
    assert np.linalg.norm(update) == pytest.approx(0.25, rel=0.01)


async def test_the_clear_update_is_in_no_file(a_round, mask_request):
    async with Worker(a_round.directory) as worker:
        await worker.train(a_round.request)
        await worker.mask(mask_request)
        open_files = {str(entry.readlink()) for entry in Path(f"/proc/{worker.pid}/fd").iterdir()}
    assert [entry.name for entry in a_round.directory.iterdir()] == ["masked.bin"]
    assert not [name for name in open_files if name.startswith(("/tmp", str(a_round.directory)))]  # noqa: S108 - none there


async def test_a_second_attempt_masks_the_same_update_into_another_file(a_round, mask_request):
    second = msgspec.structs.replace(mask_request, out_path=str(a_round.directory / "second.bin"), self_seed=b"s" * 32)
    async with Worker(a_round.directory) as worker:
        await worker.train(a_round.request)
        first = await worker.mask(mask_request)
        assert (await worker.mask(second)).sha256 != first.sha256
        with pytest.raises(TrainingError) as refusal:
            await worker.mask(second)
    assert refusal.value.reason is Reason.BAD_OUTPUT


async def test_it_may_write_in_its_own_directory_only(a_round, mask_request):
    outside = msgspec.structs.replace(mask_request, out_path=str(a_round.data / "masked.bin"))
    async with Worker(a_round.directory) as worker:
        trained = await worker.train(a_round.request)
        if trained.confinement["landlock"] != "on":
            pytest.skip(f"Landlock is {trained.confinement['landlock']}; needs Linux 5.13 with landlock in lsm=")
        with pytest.raises(TrainingError) as refusal:
            await worker.mask(outside)
    assert refusal.value.reason is Reason.BAD_OUTPUT
    assert "Permission denied" in refusal.value.detail


async def test_it_gives_up_privileges_network_and_core_dumps(a_round):
    async with Worker(a_round.directory) as worker:
        trained = await worker.train(a_round.request)
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        limits = Path(f"/proc/{worker.pid}/limits").read_text()
        scheduler = os.sched_getscheduler(worker.pid)
        network = os.stat(f"/proc/{worker.pid}/ns/net").st_ino  # noqa: PTH116 - a namespace is no path
    assert status["NoNewPrivs"] == "1"
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
    assert scheduler == os.SCHED_IDLE
    assert trained.confinement["not-dumpable"] == "on"
    if trained.confinement["network"] != "on":
        pytest.skip(f"no network namespace: {trained.confinement['network']}; run as root")
    assert network != Path("/proc/self/ns/net").stat().st_ino


@pytest.mark.parametrize(
    ("change", "reason", "detail"),
    [
        ({"weights_path": "short"}, Reason.BAD_WEIGHTS, "4 bytes, the graph has 259 weights"),
        ({"weights_path": "nan"}, Reason.BAD_WEIGHTS, "weight 7 is not finite"),
        ({"weights_path": "missing"}, Reason.UNREADABLE, "No such file"),
        ({"graph_path": "short"}, Reason.BAD_GRAPH, "not a Fedge model"),
        ({"source": "wide"}, Reason.BAD_DATA, "x has shape (5, 13), the model takes (n, 12)"),
        ({"source": "inf"}, Reason.BAD_DATA, "not finite"),
        ({"source": "pickle"}, Reason.BAD_DATA, "has type object"),
        ({"source": "nothing"}, Reason.NO_DATA, "holds no .npz"),
        ({"source": "missing"}, Reason.UNREADABLE, "No such file"),
        ({"learning_rate": 1e9}, Reason.DIVERGED, "lower the learning rate"),
    ],
)
async def test_bad_input_is_refused_by_name(a_round, change, reason, detail, tmp_path):
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "short").write_bytes(b"1234")
    weights = np.frombuffer(a_round.bundle.weights, "<f4").copy()
    weights[7] = np.nan
    (bad / "nan").write_bytes(weights.tobytes())
    np.savez(bad / "wide.npz", x=np.zeros((5, 13), np.float32), y=np.zeros(5, int))
    np.savez(bad / "inf.npz", x=np.full((5, 12), np.inf, np.float32), y=np.zeros(5, int))
    np.savez(bad / "pickle.npz", x=np.array([{}, []], dtype=object))
    (bad / "nothing").mkdir()
    for field, value in change.items():
        if field.endswith("_path"):
            change = {field: str(bad / value)}
        if field == "source":
            name = value if value == "nothing" else f"{value}.npz"
            change = {"source": Source(kind="directory", name="bad", path=str(bad / name))}
    async with Worker(a_round.directory) as worker:
        with pytest.raises(TrainingError) as refusal:
            await worker.train(a_round.changed(**change))
    assert refusal.value.reason is reason
    assert detail in refusal.value.detail


async def test_a_hostile_graph_takes_down_nothing_but_the_worker(a_round, tmp_path):
    # The runtime does not verify what it loads: these bytes crash it. That is why it runs confined.
    hostile = tmp_path / "hostile.tflite"
    hostile.write_bytes(b"TFL3" * 10)
    async with Worker(a_round.directory) as worker:
        with pytest.raises(TrainingError) as refusal:
            await worker.train(a_round.changed(graph_path=str(hostile)))
    assert refusal.value.reason in {Reason.CRASHED, Reason.BAD_GRAPH}


async def test_masking_before_training_is_refused(a_round, mask_request):
    async with Worker(a_round.directory) as worker:
        with pytest.raises(TrainingError, match="bad-request: nothing to mask"):
            await worker.mask(mask_request)


async def test_a_failed_training_leaves_nothing_to_mask(a_round, mask_request):
    async with Worker(a_round.directory) as worker:
        with pytest.raises(TrainingError):
            await worker.train(a_round.changed(learning_rate=1e9))
        with pytest.raises(TrainingError, match="nothing to mask"):
            await worker.mask(mask_request)


async def test_it_yields_the_cpu_before_its_interpreter_is_there(a_round, tmp_path):
    """A stand-in for the interpreter tells what it was started with, and fails."""
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\n/usr/bin/chrt --pid $$ >&2\n/usr/bin/nice >&2\nexit 9\n")
    interpreter.chmod(0o755)
    async with Worker(a_round.directory, python=str(interpreter)) as worker:
        with pytest.raises(TrainingError, match=r"SCHED_IDLE[\s\S]*19"):
            await worker.train(a_round.request)


async def test_a_killed_worker_is_a_crash_and_every_later_request_too(a_round, mask_request):
    async with Worker(a_round.directory) as worker:
        await worker.train(a_round.request)
        os.kill(worker.pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(TrainingError) as refusal:
                await worker.mask(mask_request)
            assert refusal.value.reason is Reason.CRASHED
            assert "exit status -9" in refusal.value.detail


async def test_a_crash_tells_the_last_words(a_round, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nyes chatter | head -c 100000 >&2; printf '\\033[2Jthe end' >&2; exit 7\n")
    python.chmod(0o755)
    async with Worker(a_round.directory, python=str(python)) as worker:
        with pytest.raises(TrainingError) as refusal:
            await worker.train(a_round.request)
    assert refusal.value.detail.startswith("exit status 7")
    assert refusal.value.detail.endswith("\n?[2Jthe end")
    assert len(refusal.value.detail) < 5000


async def test_a_listener_that_fails_ends_the_worker(a_round, mask_request):
    def fail(progress):
        raise ZeroDivisionError

    async with Worker(a_round.directory, on_progress=fail) as worker:
        with pytest.raises(ZeroDivisionError):
            await worker.train(a_round.request)
        with pytest.raises(TrainingError) as refusal:
            await worker.mask(mask_request)
    assert refusal.value.reason is Reason.CRASHED


async def test_a_frozen_worker_waits_and_goes_on(a_round, mask_request):
    async with Worker(a_round.directory) as worker:
        await worker.train(a_round.request)
        os.kill(worker.pid, signal.SIGSTOP)
        masking = asyncio.create_task(worker.mask(mask_request))
        done, _ = await asyncio.wait([masking], timeout=0.3)
        assert not done
        os.kill(worker.pid, signal.SIGCONT)
        assert (await masking).size > 0


async def test_a_timeout_kills_a_frozen_worker(a_round, mask_request):
    async with Worker(a_round.directory) as worker:
        await worker.train(a_round.request)
        pid = worker.pid
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(TrainingError) as refusal:
            await worker.mask(mask_request, timeout_s=0.2)
        assert not Path(f"/proc/{pid}").exists()
    assert refusal.value.reason is Reason.TIMEOUT


async def test_leaving_the_context_ends_a_worker_that_is_frozen_in_training(a_round):
    async def abandon():
        async with Worker(a_round.directory) as worker:
            pids.append(worker.pid)
            os.kill(worker.pid, signal.SIGSTOP)
            await worker.train(a_round.request)

    pids: list[int] = []
    task = asyncio.create_task(abandon())
    await asyncio.wait([task], timeout=0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not Path(f"/proc/{pids[0]}").exists()


async def test_a_worker_is_moved_into_its_cgroup_and_freezes_there(a_round, mask_request):
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    roots = [Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"]
    if not roots or not os.access(roots[0], os.W_OK):
        pytest.skip("no cgroup v2 to write to; mount one and run as root")
    cgroup = roots[0] / f"fedge-test-{os.getpid()}"
    cgroup.mkdir()
    try:
        async with Worker(a_round.directory, cgroup=cgroup) as worker:
            assert (cgroup / "cgroup.procs").read_text().split() == [str(worker.pid)]
            await worker.train(a_round.request)
            (cgroup / "cgroup.freeze").write_text("1")
            masking = asyncio.create_task(worker.mask(mask_request))
            done, _ = await asyncio.wait([masking], timeout=0.3)
            assert not done
            (cgroup / "cgroup.freeze").write_text("0")
            assert (await masking).size > 0
            (cgroup / "cgroup.freeze").write_text("1")
        assert not (cgroup / "cgroup.procs").read_text()
    finally:
        cgroup.rmdir()


async def test_a_missing_cgroup_fails_the_start_and_leaves_no_process(a_round):
    worker = Worker(a_round.directory, cgroup=a_round.data)
    with pytest.raises(FileNotFoundError, match=r"cgroup\.procs"):
        await worker.__aenter__()
    assert not Path(f"/proc/{worker.pid}").exists()


def test_the_worker_dies_with_its_parent(a_round):
    script = (
        "import asyncio, os, sys\n"
        "from pathlib import Path\n"
        "from fedge_agent.training.supervisor import Worker\n"
        "from fedge_agent.training.pipe import Source, Train\n"
        "import msgspec\n"
        "async def main():\n"
        "    async with Worker(Path(sys.argv[1])) as worker:\n"
        "        await worker.train(msgspec.json.decode(sys.argv[2], type=Train))\n"
        "        print(worker.pid, flush=True)\n"
        "        os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    request = msgspec.json.encode(a_round.request).decode()
    parent = subprocess.run(
        [sys.executable, "-c", script, str(a_round.directory), request], stdout=subprocess.PIPE, check=False
    )
    assert parent.returncode == -9
    try:
        worker = os.pidfd_open(int(parent.stdout))
    except ProcessLookupError:
        return
    ended, _, _ = select.select([worker], [], [], 10)
    os.close(worker)
    assert ended


async def test_garbage_on_the_pipe_ends_the_worker(a_round):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fedge_agent.training.worker", "--directory", str(a_round.directory)),
        *("--parent", str(os.getpid())),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate(b"\xff\xff\xff\xff")
    assert process.returncode == 3
    assert b"a body of 4294967295 bytes, at most 1048576 are allowed" in said


def test_neither_supervisor_nor_pipe_brings_numpy_into_the_daemon():
    code = (
        "import sys, fedge_agent.training.supervisor\n"
        "print([name for name in ('numpy', 'tflite_runtime', 'ai_edge_litert') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


async def test_a_worker_with_a_hundred_thousand_parameters_stays_below_ninety_megabytes(
    a_round, mask_request, tmp_path
):
    section = {
        "input": 256,
        "layers": [{"dense": 256, "activation": "relu"}, {"dense": 128, "activation": "relu"}, {"dense": 10}],
        "loss": "softmax-cross-entropy",
    }
    bundle = build_bundle(parse_model_spec(section))
    assert bundle.parameter_count == 99_978
    (tmp_path / "large.tflite").write_bytes(bundle.graph)
    (tmp_path / "large.bin").write_bytes(bundle.weights)
    np.savez(tmp_path / "large.npz", x=np.ones((1000, 256), np.float32), y=np.arange(1000) % 10)
    request = a_round.changed(
        graph_path=str(tmp_path / "large.tflite"),
        weights_path=str(tmp_path / "large.bin"),
        source=Source(kind="directory", name="large", path=str(tmp_path / "large.npz")),
        momentum=0.5,
        proximal_mu=0.1,
        learning_rate=0.01,
        epochs=1,
    )
    async with Worker(a_round.directory) as worker:
        await worker.train(request)
        await worker.mask(mask_request)
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{worker.pid}/status").read_text())
    assert peak is not None
    assert int(peak[1]) < 90 * 1000
