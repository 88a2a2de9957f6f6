"""The worker under the unit: behind everybody else, back to nice 0 for the masking, and no further."""

import os

from fedge_agent.training.confine import confine_process, take_a_turn

measures = confine_process(os.getppid(), nice=19, idle=True)
assert set(measures.values()) == {"on"}, measures
assert (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)) == (os.SCHED_IDLE, 19)
take_a_turn()
assert (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)) == (os.SCHED_OTHER, 0)
try:
    os.setpriority(os.PRIO_PROCESS, 0, -1)
except PermissionError:
    pass
else:
    raise AssertionError("the unit lets its processes go before others")
