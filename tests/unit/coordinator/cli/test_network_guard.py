from types import SimpleNamespace
from typing import Any, cast

import pytest

from fedge_coordinator.cli.listings import network_guard
from fedge_protocol.health import NETWORK_UNGUARDED


@pytest.mark.parametrize(
    ("version", "missing", "shown"),
    [
        ("", 0, "-"),
        ("0.1.0", 0b1010, "guarded by its kernel"),
        ("0.1.0", 0b1010 | NETWORK_UNGUARDED, "not guarded by its kernel"),
    ],
)
def test_a_device_without_a_guarded_network_is_shown_as_such(version, missing, shown):
    device = cast("Any", SimpleNamespace(version=version, missing_features=missing))
    assert network_guard(device) == shown
