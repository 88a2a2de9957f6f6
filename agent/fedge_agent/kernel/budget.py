"""The day's bytes: a counter in the kernel that only falls.

It is saved to its file (`budget_file`) when the programs are detached and by a timer (`fedge-bpf save`); what was used
since then is forgotten by a power cut. Only the loader fills the counter up, once a day.
"""

import errno
import os

from fedge_agent.kernel import budget_file, libbpf
from fedge_agent.kernel.errors import BpfCallError
from fedge_agent.kernel.policy_records import BUDGET, RULE, Budget, Rule
from fedge_agent.kernel.text_files import StrPath


def read_kernel(pin_dir: StrPath) -> tuple[Rule, Budget] | None:
    """What the pinned maps say now; None where there are none, or those of another version."""
    try:
        rule = _element(pin_dir, "fedge_rule", RULE.size)
        return Rule.decode(rule), Budget.decode(_element(pin_dir, "fedge_budget", BUDGET.size))
    except BpfCallError as error:
        if error.errno in (errno.ENOENT, errno.EMSGSIZE):
            return None
        raise


def _element(pin_dir: StrPath, name: str, length: int) -> bytes:
    descriptor = libbpf.open_pin(os.path.join(pin_dir, name), read_only=True)
    try:
        return libbpf.lookup(descriptor, bytes(4), length, name)
    finally:
        os.close(descriptor)


def save(pin_dir: StrPath, path: StrPath, day: int) -> Budget | None:
    """Writes the kernel's counter to the file, and fills it up when a new day has begun; None where nothing counts."""
    found = read_kernel(pin_dir)
    if found is None or not found[1].limit_bytes:
        return None
    present = budget_file.carried(found[1], found[1].limit_bytes, day)
    if present != found[1]:
        descriptor = libbpf.open_pin(os.path.join(pin_dir, "fedge_budget"))
        try:
            libbpf.update(descriptor, bytes(4), present.encode(), "the budget")
        finally:
            os.close(descriptor)
    budget_file.write(path, present)
    return present
