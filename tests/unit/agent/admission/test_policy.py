import pytest

from fedge_agent.admission.policy import AdmissionPolicy, Mark, PolicyValueError


def test_a_table_overrides_what_it_names():
    policy = AdmissionPolicy.from_mapping({"cpu_some": [0.2, 0.5], "require_mains": True, "pause_after_windows": 3})
    assert policy == AdmissionPolicy(cpu_some=Mark(0.2, 0.5), require_mains=True, pause_after_windows=3)


@pytest.mark.parametrize(
    "table",
    [
        {"cpu": [0.1, 0.2]},
        {"cpu_some": [0.2, 0.1]},
        {"cpu_some": [0.2, 0.2]},
        {"cpu_some": [-1, 0.2]},
        {"cpu_some": 0.2},
        {"cpu_some": ["a", "b"]},
        {"cpu_some": [True, 2]},
        {"require_mains": 1},
        {"pause_after_windows": 0},
        {"pause_after_windows": 1.5},
        {"pause_after_windows": True},
        {"window_s": 0},
        {"window_s": float("nan")},
        {"cpu_some": [float("nan"), 1.0]},
        {"enter_after_s": "2"},
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_name(table):
    with pytest.raises(PolicyValueError, match=next(iter(table))):
        AdmissionPolicy.from_mapping(table)
