# Runs in the machine: run PHASE. Every line `RESULT name ok` or `RESULT name FAILED why` is looked at by the test.
# shellcheck shell=bash
set -u
phase=$1
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive HOME=/root

result() { # NAME COMMAND...
    local name=$1 said
    shift
    if said=$("$@" 2>&1); then
        echo "RESULT $name ok"
    else
        echo "RESULT $name FAILED $(printf '%s' "$said" | tail -n 5 | tr '\n' '|')"
    fi
}

# until_true SECONDS COMMAND...
until_true() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || { "$@"; return 1; }
        sleep 1
    done
}

status_has() { fedge-agent status -o json | grep -q "$1"; }
restarts() { [[ $(systemctl show -P NRestarts fedge-agent) == "$1" ]]; }
completed() { (($(fedgectl get rounds --job vm -o json | grep -c '"finished"') >= $1)); }
second() { fedge-agent --config /etc/fedge/second.toml "$@"; }
unit=/sys/fs/cgroup/fedge.slice/fedge-agent.service

from_inside() { # HOST PORT: connect as a member of the agent's control group
    (
        echo "$BASHPID" >$unit/agent/cgroup.procs 2>/dev/null || echo "$BASHPID" >$unit/cgroup.procs
        exec /usr/bin/python3 -c "import socket; socket.create_connection(('$1', $2), 5)"
    )
}
refused() { [[ $(from_inside "$@" 2>&1) == *'Errno 1'* ]]; }
start_second() {
    systemd-run --quiet --unit=second --property=User=fedge --property=RuntimeDirectory=fedge-second \
        fedge-agent --config /etc/fedge/second.toml run
}
no_double() { # nothing of one kind was signed twice for one attempt of a round
    /usr/bin/python3 - <<'P'
import collections, json, subprocess
text = subprocess.run(["fedge-agent", "outbox", "--last", "10000", "-o", "json"], capture_output=True, text=True, check=True).stdout
rows = [r for r in json.loads(text)["messages"] if r["kind"] in ("ready", "vector", "masked", "survivors", "receipt") and r["job"]]
found = collections.Counter((r["job"], r["round"], r["kind"]) for r in rows)
twice = [key for key, number in found.items() if number > 1]
assert rows and not twice, twice or "nothing was signed at all"
P
}

if [[ $phase == first ]]; then
    result cgroup2 test "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs
    result install dpkg -i /scenario/debs/fedge-agent_*.deb /scenario/debs/fedge-coordinator_*.deb
    mkdir -p /srv/readings
    /usr/bin/python3 - >/srv/readings/readings.csv <<'P'
print("a,b,c,d,y")
for i in range(64):
    print(f"{i * 7 % 5},{i % 3},{i * i % 4},1,{i % 3}")
P
    cp /scenario/agent.toml /etc/fedge/agent.toml
    sed 's#^network = .*#network = "off"#; 1i state_dir = "/var/lib/fedge/second"\nruntime_dir = "/run/fedge-second"' \
        /scenario/agent.toml >/etc/fedge/second.toml
    systemctl restart fedge-agent
    result guarded-before-enrolment until_true 60 fedge-bpf status --cgroup $unit
    result waits-for-enrolment grep -q 'not enrolled' <(systemctl show -P StatusText fedge-agent)
    result init fedgectl init --fleet vm --host 127.0.0.1
    until_true 120 systemctl is-active fedge-coordinator
    result enrol fedge-agent enroll "$(fedgectl token create | tail -n 1)"
    install -d -m 700 -o fedge -g fedge /var/lib/fedge/second
    result enrol-second second enroll "$(fedgectl token create | tail -n 1)"
    result connected until_true 180 status_has '"connected": true'
    result enforced status_has '"enforced": true'
    result broker-allowed from_inside 127.0.0.1 8883
    result forbidden-refused refused 127.0.0.1 22
    start_second

    systemctl kill --kill-whom=main --signal=STOP fedge-agent
    result watchdog until_true 180 restarts 1
    result connected-after-watchdog until_true 180 status_has '"connected": true'
    systemctl kill --kill-whom=main --signal=KILL fedge-agent
    result kill until_true 120 restarts 2
    result connected-after-kill until_true 180 status_has '"connected": true'

    result apply fedgectl apply -f /scenario/job.yaml
    result worker-memory-limit until_true 240 grep -qx 134217728 $unit/worker/memory.max
    result worker-cpu-limit until_true 60 grep -qx '50000 100000' $unit/worker/cpu.max
    result worker-frozen-or-running test -e $unit/worker/cgroup.freeze
    result first-round until_true 600 completed 1
    result signed-once no_double
    # in the middle of a later round, as soon as its worker is there
    until_true 240 grep -q . $unit/worker/cgroup.procs
    echo 'CUT NOW'
    sleep 600
else
    result device-is-back until_true 300 status_has '"connected": true'
    result enforced-after-cut status_has '"enforced": true'
    before=$(fedgectl get rounds --job vm -o json | grep -c '"finished"')
    start_second
    result rounds-go-on until_true 600 completed $((before + 1))
    result signed-once-after-cut no_double
fi
journalctl --no-pager -u fedge-agent -u fedge-coordinator -o cat | tail -n 60
echo "PHASE $phase DONE"
