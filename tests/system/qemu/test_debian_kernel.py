"""A virtual machine with Debian's own kernel: cgroup v2, eBPF through the unit, watchdog, kill, and a power cut.

Emulated (TCG), so slow: waits are long, and nothing here judges time.
"""

import os
import re
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
import yaml

PLACE = Path(os.environ.get("FEDGE_SYSTEM_QEMU", "/nonexistent"))
DEBS = Path(os.environ.get("FEDGE_SYSTEM_DEBS", "/nonexistent"))
HERE = Path(__file__).parent
TIMEOUT_S = 1500
KERNEL_OPTIONS = (
    "console=ttyS0 root=/dev/vda rw quiet mitigations=off random.trust_cpu=on"
    " systemd.show_status=false net.ifnames=0 panic=-1"
)
AGENT = """
[consent]
allow_small_cohort = true

[sources.readings]
kind = "directory"
path = "/srv/readings"

[kernel]
network = "require"

[worker]
memory_max_mib = 128
cpu_max_percent = 50

[admission]
run_queue_p95_us = [2e8, 3e8]
cpu_some = [2, 3]
memory_some = [2, 3]
io_some = [2, 3]
temperature_c = [200, 201]
enter_after_s = 0
"""
JOB = {
    "apiVersion": "fedge.dev/v1alpha1",
    "kind": "TrainingJob",
    "metadata": {"name": "vm"},
    "spec": {
        "model": {"input": 4, "layers": [{"dense": 3}], "loss": "softmax-cross-entropy", "seed": 1},
        "data": {"source": "readings", "kind": "directory"},
        "training": {
            "epochs": 2,
            "batchSize": 8,
            "learningRate": 0.05,
            "clipNorm": 1.0,
            "maxSamples": 64,
            "weightUnit": 32,
            "weightMax": 2,
        },
        "cohort": {"minimum": 2, "target": 2, "allowSmallCohort": True, "readySeconds": 300, "phaseSeconds": 120},
        "aggregation": {"mode": "secure", "strategy": "fedavg", "suite": "chacha20"},
        "privacy": {"floor": 2},
        "admission": {},
        "rewards": {"perRound": "0", "rule": "participation-v1"},
        "rollout": {"rounds": 5000},
    },
}


def payload(folder, phase):
    """The second disk: the packages, the configuration, the scenario."""
    path = folder / f"{phase}.tar"
    (folder / "run").write_text(f"exec /bin/bash /scenario/guest.sh {phase}\n")
    (folder / "agent.toml").write_text(AGENT)
    (folder / "job.yaml").write_text(yaml.safe_dump(JOB))
    with tarfile.open(path, "w") as archive:
        for name in ("run", "agent.toml", "job.yaml"):
            archive.add(folder / name, name)
        archive.add(HERE / "guest.sh", "guest.sh")
        if phase == "first":
            for deb in DEBS.glob("fedge-[ac]*.deb"):
                if "+1_" not in deb.name and not deb.name.startswith("fedge-agent-eth"):
                    archive.add(deb, f"debs/{deb.name}")
    return path


def boot(folder, phase, until):
    """Boot the disk and wait for a line; the power is cut at that line, or the machine has switched itself off."""
    log = folder / f"{phase}.log"
    command = [
        "qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max", "-smp", "2",
        "-m", "1536", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-kernel", str(PLACE / "vmlinuz"), "-initrd", str(PLACE / "initrd.gz"),
        "-append", KERNEL_OPTIONS,
        "-drive", f"id=a,if=none,file={folder / 'disk.qcow2'},cache=writeback",
        "-drive", f"id=b,if=none,file={payload(folder, phase)},format=raw,readonly=on",
        "-device", "virtio-blk-pci,drive=a", "-device", "virtio-blk-pci,drive=b", "-device", "virtio-rng-pci",
        "-serial", f"file:{log}",
    ]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as machine:
        deadline_s = time.monotonic() + TIMEOUT_S
        while machine.poll() is None and time.monotonic() < deadline_s:
            if until in (log.read_text(errors="replace") if log.exists() else ""):
                break
            time.sleep(0.2)
        machine.kill()  # no flush, no farewell
    text = log.read_text(errors="replace")
    assert until in text, f"not within {TIMEOUT_S} s; the machine's last words:\n{text[-6000:]}"
    return text


def results(text):
    """What became of each step."""
    return dict(re.findall(r"^RESULT (\S+) (.*?)\r?$", text, re.MULTILINE))


@pytest.fixture(scope="module")
def boots(tmp_path_factory):
    if shutil.which("qemu-system-x86_64") is None or not (PLACE / "disk.ext4").exists():
        pytest.skip("no virtual machine was built; tests/system/run --qemu builds one")
    folder = tmp_path_factory.mktemp("vm")
    disk = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(PLACE / "disk.ext4"), "-F", "raw"]
    subprocess.run([*disk, str(folder / "disk.qcow2")], check=True)
    first = boot(folder, "first", "CUT NOW")
    second = boot(folder, "second", "PHASE second DONE")
    return first, second


def test_every_step_before_the_power_cut_went_well(boots):
    found = results(boots[0])
    assert {name: said for name, said in found.items() if said != "ok"} == {}, boots[0][-6000:]
    assert {"enforced", "forbidden-refused", "watchdog", "kill", "worker-memory-limit", "first-round"} <= set(found)


def test_after_a_power_cut_in_a_round_the_device_goes_on_and_signs_nothing_twice(boots):
    found = results(boots[1])
    assert {name: said for name, said in found.items() if said != "ok"} == {}, boots[1][-6000:]
    assert {"device-is-back", "rounds-go-on", "signed-once-after-cut"} <= set(found)
