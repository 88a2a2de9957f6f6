import asyncio
import ipaddress
import logging

from fedge_agent.kernel.features import FEATURES
from fedge_agent.kernel.recorder import TelemetryRecorder, describe
from fedge_agent.kernel.records import Denial, DenialReason, Hook
from fedge_agent.kernel.telemetry import Telemetry
from fedge_agent.kernel.telemetry_ring import read_ring


async def until_windows(path, wanted):
    async with asyncio.timeout(20):
        while not path.exists() or len(read_ring(path)) < wanted:  # noqa: ASYNC110 - a file tells no event
            await asyncio.sleep(0.01)


async def test_windows_are_kept_in_the_running_loop_until_the_end(tmp_path):
    path = tmp_path / "ring"
    recorder = TelemetryRecorder(Telemetry(tmp_path), path, 1 << 16, window_s=0.02)
    recorder.start(tmp_path)
    await until_windows(path, 3)
    recorder.close()
    kept = read_ring(path)
    await asyncio.sleep(0.1)
    assert len(read_ring(path)) == len(kept)
    assert len(kept[-1].values) == len(FEATURES)
    assert all(window.window_s > 0.01 for window in kept)


def test_a_ring_that_cannot_be_made_is_told_and_windows_are_still_taken(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        recorder = TelemetryRecorder(Telemetry(tmp_path), tmp_path / "no" / "ring", 1 << 16)
    assert "telemetry is not kept" in caplog.text
    assert len(recorder.record().values) == len(FEATURES)
    recorder.close()


def test_a_refusal_is_told_in_one_line():
    denial = Denial(
        1, Hook.CONNECT, ipaddress.ip_address("192.0.2.1"), 80, 6, 3, DenialReason.NOT_ALLOWED, audited=False
    )
    assert describe(denial) == (
        "refused (not allowed) at connect: tcp to 192.0.2.1 port 80; 3 more before it were counted only"
    )
