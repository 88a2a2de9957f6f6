"""The loader in two parts: one reads and is gone, one loads and stays small."""

import contextlib
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedge_agent.kernel import capabilities, command_line, frozen, plain
from fedge_agent.kernel.apart import ChildFailedError, apart
from fedge_agent.kernel.loader import main
from fedge_agent.kernel.orders import Order

AGENT = Path(__file__).parents[4] / "agent"
# each is between a quarter of a megabyte and two and a half, of the four that the loader has beside bare Python
HEAVY = {"argparse", "dataclasses", "ipaddress", "json", "pathlib", "re", "socket", "tomllib", "typing", "urllib"}


def test_the_part_that_loads_imports_nothing_heavy():
    script = "import sys, fedge_agent.kernel.loader, fedge_agent.kernel.execution; print(*sys.modules)"
    command = [sys.executable, "-IS", "-c", f"import sys; sys.path.append({str(AGENT)!r}); {script}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    imported = set(done.stdout.split())
    assert "ctypes" in imported
    assert not imported & HEAVY


def test_what_is_read_apart_comes_back_whole():
    order = Order("attach", pin_dir="/sys/fs/bpf/fedge", allow=(bytes(24),), saved=(1, 2, 3), warnings=("a name",))
    assert Order.of(apart(order.fields)) == order


def depth(value: object) -> int:
    return 1 + max(map(depth, value), default=0) if isinstance(value, tuple) else 0


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=20) | st.binary(max_size=20),
        lambda each: st.lists(each, max_size=4).map(tuple),
        max_leaves=12,
    )
)
def test_plain_values_come_back_and_deep_ones_are_refused(value):
    try:
        found = plain.decode(plain.encode(value))
    except plain.NotPlainError:
        assert depth(value) > plain.MAX_DEPTH
    else:
        assert found == value


@given(st.binary(max_size=60) | st.text("nftisbl:0123456789-", max_size=40).map(str.encode))
def test_whatever_a_taken_over_reader_says_is_a_plain_value_or_refused(data):
    with contextlib.suppress(plain.NotPlainError):
        plain.encode(plain.decode(data))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pin_dir", b"/sys"),
        ("guarded", 1),
        ("allow", ("text",)),
        ("allow", (b"short",)),
        ("saved", 5),
        ("publish", "/etc"),
    ],
)
def test_an_order_whose_fields_are_of_other_types_is_refused(field, value):
    fields = dict(zip(Order.__slots__, Order().fields(), strict=True)) | {field: value}
    with pytest.raises(TypeError):
        Order.of(tuple(fields.values()))
    with pytest.raises(TypeError):
        Order.of(tuple(fields.values())[1:])


def test_an_object_that_is_not_plain_is_not_handed_over(capfd):
    with pytest.raises(ChildFailedError, match="status 1"):
        apart(dict)
    assert "dict is no plain value" in capfd.readouterr().err


def test_what_runs_apart_changes_nothing_here():
    found = []

    def change() -> int:
        found.append(1)
        return os.getpid()

    assert apart(change) != os.getpid()
    assert found == []


def test_a_child_that_fails_is_told_and_is_no_answer(capfd):
    with pytest.raises(ChildFailedError, match="status 1"):
        apart(lambda: 1 // 0)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_wrong_usage_and_help_keep_their_exit_status(capfd):
    assert main(["attach", "--compiler", "gcc"]) == 2
    assert "invalid choice: 'gcc'" in capfd.readouterr().err
    assert main(["--help"]) == 0
    assert "Puts Fedge's kernel programs in place" in capfd.readouterr().out


@frozen.dataclass(frozen=True, slots=True)
class Ours:
    first: int
    second: str = "b"

    @property
    def both(self) -> str:
        return f"{self.first}{self.second}"


@dataclasses.dataclass(frozen=True, slots=True)
class Theirs:
    first: int
    second: str = "b"


def test_frozen_records_are_what_dataclasses_would_make():
    ours, theirs = Ours(1), Theirs(1)
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
    assert ours == Ours(first=1, second="b") != Ours(2)
    assert ours != theirs  # type: ignore[comparison-overlap]  # which is what is asked
    assert hash(ours) == hash(Ours(1))
    assert frozen.replace(ours, second="c") == Ours(1, "c")
    assert ours.both == "1b"
    assert Ours.__slots__ == Theirs.__slots__
    with pytest.raises(AttributeError, match="frozen"):
        ours.first = 2  # type: ignore[misc]  # which is refused
    for wrong in ((), (1, "b", 3)):
        with pytest.raises(TypeError):
            Ours(*wrong)
    for name in ("first", "third"):
        with pytest.raises(TypeError):
            Ours(1, **{name: 2})  # type: ignore[arg-type]  # which is refused


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to give up; run as root")
def test_the_part_that_reads_what_others_wrote_keeps_one_capability(monkeypatch):
    def read(_):
        return Order(status=capabilities.effective()).fields()

    before = capabilities.effective()
    monkeypatch.setattr(command_line, "read", read)
    assert main([]) == 1 << capabilities.Capability.DAC_READ_SEARCH
    assert capabilities.effective() == before != 0
