from pathlib import Path

from fedge_agent.rewards import CountedRounds, Rewards, by_job
from fedge_agent.store import DeviceStore

COUNTED = (CountedRounds("digits", 12, 14),)
OWN, ELSEWHERE = bytes([1]) * 20, bytes([2]) * 20


def rewards(payout=OWN, chain_id=31337, counted=COUNTED):
    return Rewards("0" * 32, "lab", payout, OWN, chain_id, Path("/var/lib/fedge/chain.key"), counted)


def test_rounds_are_counted_by_job_and_only_those_that_counted_the_device(tmp_path):
    store = DeviceStore(tmp_path / "state.db", lambda: 0)
    assert by_job(store.rounds(-1)) == ()
    for number, outcome in ((1, "included"), (2, "not-included"), (3, "included"), (4, "aborted")):
        store.round_ended("digits", number, 0, outcome=outcome)
    store.round_ended("watch", 9, 0, outcome="included")
    assert by_job(store.rounds(-1)) == (CountedRounds("digits", 2, 3), CountedRounds("watch", 1, 9))
    store.close()


def test_rewards_to_the_devices_own_account_are_lost_with_its_key():
    found = rewards()
    assert found.lost_with_the_key
    assert "spent only with /var/lib/fedge/chain.key: keep it" in found.text()
    assert "counted in 12 rounds, the last was 14" in found.text()
    assert "only chain 31337 knows" in found.text()


def test_rewards_that_go_elsewhere_do_not_need_this_devices_key():
    found = rewards(payout=ELSEWHERE, chain_id=0)
    assert not found.lost_with_the_key
    assert "keep it" not in found.text()
    assert "only the coordinator's ledger knows" in found.text()


def test_a_device_that_no_round_has_counted_has_nothing_to_lose():
    found = rewards(counted=())
    assert not found.lost_with_the_key
    assert "no round has counted this device yet" in found.text()


def test_programs_get_the_same():
    assert rewards().plain() == {
        "device": "0" * 32,
        "fleet": "lab",
        "payout": "0x" + "01" * 20,
        "account": "0x" + "01" * 20,
        "chain_id": 31337,
        "key_file": "/var/lib/fedge/chain.key",
        "lost_with_the_key": True,
        "jobs": [{"job": "digits", "rounds": 12, "last_round": 14}],
    }
