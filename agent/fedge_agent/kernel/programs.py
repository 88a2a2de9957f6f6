"""The one table of programs and maps: drives load, attach, pin, health report, documentation and tests."""

import enum

from fedge_agent.kernel.frozen import dataclass


class ObjectName(enum.Enum):
    """The object files. Two, because admission must work on kernels that have no tracepoint programs."""

    ADMISSION = "admission"
    TELEMETRY = "telemetry"

    @property
    def file_name(self) -> str:
        """The object's file name in the object directory."""
        return f"{self.value}.bpf.o"

    @property
    def expanded_name(self) -> str:
        """The file name of the same source as bcc takes it, in the same directory."""
        return f"{self.value}.bcc.c"


class Compiler(enum.Enum):
    """Who compiles; `auto` prefers the object."""

    AUTO = "auto"
    OBJECT = "object"
    BCC = "bcc"


class Feature(enum.Enum):
    """What a program contributes; a feature whose programs are not attached comes from its substitute or is missing."""

    NETWORK_ADMISSION = "network-admission"
    NETWORK_COUNT = "network-count"
    NETWORK_PACE = "network-pace"
    RUN_QUEUE = "run-queue"
    EXEC = "exec"
    RETRANSMITS = "retransmits"
    RECLAIM = "reclaim"
    BLOCK_LATENCY = "block-latency"
    PEERS = "peers"


@dataclass(frozen=True, slots=True)
class TracepointField:
    """A field that a program reads at a compiled-in offset (bpf/tracepoints.h).

    Attributes:
        macro: OFF_{macro} and TYPE_{macro} are its offset and type in the source.
    """

    name: str
    offset: int
    size: int
    macro: str


@dataclass(frozen=True, slots=True)
class Program:
    """One BPF program.

    Attributes:
        name: in the object and, as pin, in the pin directory; at most 15 characters.
        section: libbpf's section name; it carries the attach point.
        capability: what its loader needs besides CAP_BPF.
        substitute: what serves instead when it cannot be attached; empty when nothing can.
        fields: tracepoint fields whose offsets must match the running kernel.
    """

    name: str
    object_name: ObjectName
    section: str
    feature: Feature
    capability: str
    substitute: str
    fields: tuple[TracepointField, ...] = ()

    @property
    def on_cgroup(self) -> bool:
        """Attached to the unit's cgroup; otherwise to a tracepoint of the whole machine."""
        return self.object_name is ObjectName.ADMISSION

    @property
    def program_type(self) -> int:
        """The number of its enum bpf_prog_type."""
        return _KINDS[self.section][0] if self.on_cgroup else _TRACEPOINT

    @property
    def attach_type(self) -> int:
        """The number of its enum bpf_attach_type."""
        return _KINDS[self.section][1] if self.on_cgroup else _PERF_EVENT

    @property
    def tracepoint(self) -> tuple[str, str]:
        """Category and event of a tracepoint program."""
        _, category, event = self.section.split("/")
        return category, event


# (enum bpf_prog_type, enum bpf_attach_type), from linux/bpf.h
_KINDS = {
    "cgroup/connect4": (18, 10),
    "cgroup/connect6": (18, 11),
    "cgroup/sendmsg4": (18, 14),
    "cgroup/sendmsg6": (18, 15),
    "cgroup_skb/egress": (8, 1),
    "cgroup_skb/ingress": (8, 0),
    "sockops": (13, 3),
}
_TRACEPOINT = 5
_PERF_EVENT = 41


def _network(name: str, section: str, feature: Feature, substitute: str) -> Program:
    return Program(name, ObjectName.ADMISSION, section, feature, "CAP_NET_ADMIN", substitute)


def _trace(name: str, event: str, feature: Feature, substitute: str, *fields: TracepointField) -> Program:
    needs = "CAP_PERFMON, CAP_DAC_READ_SEARCH"
    return Program(name, ObjectName.TELEMETRY, f"tracepoint/{event}", feature, needs, substitute, fields)


_WAKEUP = (TracepointField("pid", 24, 4, "SCHED_WAKEUP_PID"), TracepointField("prio", 28, 4, "SCHED_WAKEUP_PRIO"))
_SWITCH = (
    TracepointField("prev_pid", 24, 4, "SCHED_SWITCH_PREV_PID"),
    TracepointField("prev_prio", 28, 4, "SCHED_SWITCH_PREV_PRIO"),
    TracepointField("prev_state", 32, 8, "SCHED_SWITCH_PREV_STATE"),
    TracepointField("next_pid", 56, 4, "SCHED_SWITCH_NEXT_PID"),
    TracepointField("next_prio", 60, 4, "SCHED_SWITCH_NEXT_PRIO"),
)
_REQUEST = (TracepointField("dev", 8, 4, "BLOCK_RQ_DEV"), TracepointField("sector", 16, 8, "BLOCK_RQ_SECTOR"))
_WAITS = "/proc/*/schedstat (mean wait), PSI cpu"
_PEER = (TracepointField("newstate", 20, 4, "SOCK_NEWSTATE"), TracepointField("daddr_v6", 56, 16, "SOCK_DADDR_V6"))
_DISK = "/proc/diskstats (mean)"

PROGRAMS: tuple[Program, ...] = (
    _network("fedge_connect4", "cgroup/connect4", Feature.NETWORK_ADMISSION, ""),
    _network("fedge_connect6", "cgroup/connect6", Feature.NETWORK_ADMISSION, ""),
    _network("fedge_sendmsg4", "cgroup/sendmsg4", Feature.NETWORK_ADMISSION, ""),
    _network("fedge_sendmsg6", "cgroup/sendmsg6", Feature.NETWORK_ADMISSION, ""),
    _network("fedge_egress", "cgroup_skb/egress", Feature.NETWORK_ADMISSION, ""),
    _network("fedge_ingress", "cgroup_skb/ingress", Feature.NETWORK_COUNT, ""),
    _network("fedge_sockops", "sockops", Feature.NETWORK_PACE, ""),
    _trace("fedge_wakeup", "sched/sched_wakeup", Feature.RUN_QUEUE, _WAITS, *_WAKEUP),
    _trace("fedge_wake_new", "sched/sched_wakeup_new", Feature.RUN_QUEUE, _WAITS, *_WAKEUP),
    _trace("fedge_switch", "sched/sched_switch", Feature.RUN_QUEUE, _WAITS, *_SWITCH),
    _trace("fedge_exec", "sched/sched_process_exec", Feature.EXEC, "/proc/stat processes (forks)"),
    _trace("fedge_retrans", "tcp/tcp_retransmit_skb", Feature.RETRANSMITS, "/proc/net/snmp Tcp RetransSegs"),
    _trace("fedge_peer", "sock/inet_sock_set_state", Feature.PEERS, "/proc/net/tcp, tcp6 (those at the end)", *_PEER),
    _trace("fedge_reclaim", "vmscan/mm_vmscan_direct_reclaim_begin", Feature.RECLAIM, "/proc/vmstat allocstall_*"),
    _trace("fedge_oom", "oom/mark_victim", Feature.RECLAIM, "/proc/vmstat oom_kill"),
    _trace("fedge_blk_issue", "block/block_rq_issue", Feature.BLOCK_LATENCY, _DISK, *_REQUEST),
    _trace("fedge_blk_done", "block/block_rq_complete", Feature.BLOCK_LATENCY, _DISK, *_REQUEST),
)


class Access(enum.Enum):
    """Who may do what with a pinned map, as a file mode; the owner is root, the group the daemon's."""

    PRIVATE = 0o600
    READ = 0o640
    READ_WRITE = 0o660


@dataclass(frozen=True, slots=True)
class PinnedMap:
    """One map: its pin has the same name.

    Attributes:
        access: consuming a ring buffer writes the consumer's position, hence READ_WRITE for fedge_deny; the kernel
            refuses element updates on a ring buffer, so this opens nothing else.
    """

    name: str
    object_name: ObjectName
    access: Access


MAPS: tuple[PinnedMap, ...] = (
    PinnedMap("fedge_allow", ObjectName.ADMISSION, Access.READ),
    PinnedMap("fedge_count", ObjectName.ADMISSION, Access.READ),
    PinnedMap("fedge_pace", ObjectName.ADMISSION, Access.PRIVATE),
    PinnedMap("fedge_rule", ObjectName.ADMISSION, Access.READ),
    PinnedMap("fedge_budget", ObjectName.ADMISSION, Access.READ),
    PinnedMap("fedge_srtt", ObjectName.ADMISSION, Access.READ),
    PinnedMap("fedge_deny", ObjectName.ADMISSION, Access.READ_WRITE),
    PinnedMap("fedge_on", ObjectName.TELEMETRY, Access.READ_WRITE),
    PinnedMap("fedge_wake", ObjectName.TELEMETRY, Access.PRIVATE),
    PinnedMap("fedge_io", ObjectName.TELEMETRY, Access.PRIVATE),
    PinnedMap("fedge_runq", ObjectName.TELEMETRY, Access.READ),
    PinnedMap("fedge_blk", ObjectName.TELEMETRY, Access.READ),
    PinnedMap("fedge_tel", ObjectName.TELEMETRY, Access.READ),
    PinnedMap("fedge_peers", ObjectName.TELEMETRY, Access.READ),
)


def programs_of(name: ObjectName) -> tuple[Program, ...]:
    """The programs of one object file, in table order."""
    return tuple(program for program in PROGRAMS if program.object_name is name)


def maps_of(name: ObjectName) -> tuple[PinnedMap, ...]:
    """The maps of one object file."""
    return tuple(item for item in MAPS if item.object_name is name)
