"""`fedge-agent telemetry` over real maps, and over none."""

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from fedge_agent.config import KernelTable
from fedge_agent.kernel.features import FEATURES, VECTOR_VERSION
from fedge_agent.kernel.reader import MapReader
from fedge_agent.kernel.telemetry import Telemetry
from fedge_agent.kernel.telemetry_ring import TelemetryRing
from fedge_agent.telemetry_view import TelemetryView, draw


@pytest.fixture
def command(tmp_path: Path, pin_dir: Path) -> list[str]:
    config = tmp_path / "agent.toml"
    config.write_text(f'state_dir = "{tmp_path}"\n[kernel]\npin_dir = "{pin_dir}"\n')
    script = "import sys; from fedge_agent.cli import main; sys.exit(main())"
    return [sys.executable, "-c", script, "--config", str(config), "telemetry", "--every", "0.3"]


def test_the_json_has_every_feature_with_its_source(fedge_bpf, cgroup, client, command, pin_dir, tmp_path):
    fedge_bpf("attach", "--cgroup", str(cgroup), "--daily-budget-mib", "3")
    client(cgroup).ask("tcp", "127.0.0.1", 9)
    with TelemetryRing(tmp_path / "telemetry.ring", 1 << 16) as ring:
        ring.append(Telemetry(pin_dir).window(), 5)
    found = json.loads(subprocess.run([*command, "--json"], check=True, capture_output=True, text=True).stdout)
    assert found["vector_version"] == VECTOR_VERSION
    assert [feature["name"] for feature in found["features"]] == list(FEATURES)
    assert {feature["source"] for feature in found["features"] if feature["name"].startswith("egress")} == {"kernel"}
    assert found["counters"]["denied_connect"] == 1
    assert found["budget"] == {"left_bytes": 3 << 20, "limit_bytes": 3 << 20}
    assert found["ring"]["windows"] == 1
    assert found["unreadable"] is None


def test_the_live_view_draws_rates_histograms_and_refusals(fedge_bpf, cgroup, client, pin_dir):
    fedge_bpf("attach", "--cgroup", str(cgroup))
    with MapReader(pin_dir) as reader:
        reader.switch_scheduler_probes(on=True)
        view = TelemetryView(KernelTable(pin_dir=str(pin_dir)))
        client(cgroup).ask("udp", "127.0.0.1", 9)
        subprocess.run([sys.executable, "-c", "import time\nfor _ in range(300): time.sleep(1e-5)"], check=True)
        text = draw(view.window())
        view.close()
        reader.switch_scheduler_probes(on=False)
    assert "run_queue_us: p50" in text
    assert " us " in text
    assert "#" in text
    assert "refused since attached: 0 connect, 1 sendmsg, 0 egress, 0 budget" in text


def test_without_programs_the_substitutes_are_shown_and_the_cure_is_named(root_privilege, command):
    done = subprocess.run([*command, "--frames", "1"], check=True, capture_output=True, text=True)
    assert "/proc/stat processes (forks)" in done.stdout
    assert "run fedge-bpf attach" in done.stdout
    assert "run_queue_us: not counted here" in done.stdout


def test_prometheus_gets_it_on_loopback_from_a_process_of_its_own(fedge_bpf, cgroup, client, command, pin_dir):
    fedge_bpf("attach", "--cgroup", str(cgroup))
    client(cgroup).ask("tcp", "127.0.0.1", 9)
    with subprocess.Popen([*command, "--listen", "0"], stdout=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stdout is not None
            url = serving.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:")
            text = urllib.request.urlopen(url, timeout=20).read().decode()  # noqa: S310 - our own server
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(url.removesuffix("metrics"), timeout=20)  # noqa: S310 - as above
        finally:
            serving.terminate()
    lines = text.splitlines()
    assert "fedge_device_denied_connect_total 1" in lines
    assert any(line.startswith('fedge_device_feature{name="cpu_some",unit="share",source="kernel"}') for line in lines)
    assert any(line.startswith('fedge_device_srtt_us_bucket{le="+Inf"}') for line in lines)
    assert not any("nan" in line.lower() for line in lines)
    for line in lines:
        assert re.fullmatch(r'# TYPE [a-z_]+ (counter|gauge|histogram)|[a-z_]+(\{.*"\})? [-+0-9.e]+', line), line
