"""Rests while training."""

from fedge_agent.training.breath import REST_S, WORK_S, Breath


def test_it_rests_once_enough_work_was_done_and_not_before():
    now_s, rests = [10.0], []

    def sleep(delay_s):
        rests.append(delay_s)
        now_s[0] += delay_s

    breath = Breath(monotonic_s=lambda: now_s[0], sleep=sleep)
    for _ in range(8):
        now_s[0] += WORK_S / 4 + 1e-9
        breath.breathe()
    assert rests == [REST_S, REST_S]


def test_a_long_step_is_followed_by_one_rest():
    now_s = [0.0]
    rests: list[float] = []
    breath = Breath(monotonic_s=lambda: now_s[0], sleep=rests.append)
    now_s[0] = 100 * WORK_S
    breath.breathe()
    breath.breathe()
    assert rests == [REST_S]
