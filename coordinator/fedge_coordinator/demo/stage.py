"""Builds the fleet's fixed parts from nothing: chain, CA, broker, coordinator; and takes them down again."""

import json
import os
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from fedge_coordinator.demo import fleet as fleet_module
from fedge_coordinator.demo import kernel, programs
from fedge_coordinator.demo.dataset import Prepared, prepare
from fedge_coordinator.demo.fleet import Device
from fedge_coordinator.demo.kernel import KernelStage
from fedge_coordinator.demo.processes import Child, Children, DemoError, accepts, free_port, run, wait_until
from fedge_coordinator.demo.programs import find, program

FLEET = "demo"
JOB = "watch"
_JOB_FILE = programs.REPOSITORY / "deploy" / "examples" / "watch-training-job.yaml"
_WEI = 10**20
_ENROL_AT_ONCE = 2


@dataclass
class Options:
    """What the user asked for."""

    rounds: int
    devices: int
    seed: int


@dataclass
class Stage:
    """The running system. `parts_off` says which parts are not running here, and why."""

    folder: Path
    options: Options
    children: Children
    socket: Path
    published: Path
    manifest: Path
    devices: list[Device] = field(default_factory=list)
    parts_off: dict[str, str] = field(default_factory=dict)
    kernel: KernelStage | None = None
    data: Prepared | None = None
    chain_url: str | None = None
    coordinator: Child | None = None
    job_document: dict[str, object] = field(default_factory=dict)

    def close(self) -> None:
        """End every process, detach every program."""
        self.children.stop_all()
        if self.kernel is not None:
            self.kernel.close()


class Builder:
    """One method a part, in the order in which they need each other. `say` tells what is being done."""

    def __init__(self, folder: Path, options: Options, say: Callable[[str], None]) -> None:
        logs = folder / "logs"
        logs.mkdir(parents=True)
        self._say = say
        self._ca = folder / "ca"
        self._port = free_port()
        self._ca_port = free_port()
        self._keys = folder / "keys"
        self._manifest = folder / "chain.json"
        self._identity = folder / "identity"
        self.stage = Stage(
            folder=folder,
            options=options,
            children=Children(logs),
            socket=folder / "api.sock",
            published=folder / "coordinator" / "published",
            manifest=self._manifest,
        )

    def build(self) -> Stage:
        """Everything but the agents' start.

        Raises:
            DemoError: a part does not come up.
        """
        self._data()
        self._chain()
        self._authority()
        self._broker()
        self._coordinator()
        self._devices()
        self._write_job()
        return self.stage

    def _data(self) -> None:
        self._say("preparing the smart-watch recordings: one person a device, two people held out")
        options = self.stage.options
        self.stage.data = prepare(self.stage.folder / "data", devices=options.devices, seed=options.seed)

    def _chain(self) -> None:
        run([program("fedge-coordinator"), "keys", str(self._keys)])
        anvil = programs.anvil()
        if anvil is None:
            self.stage.parts_off["chain"] = "anvil is not installed (npm); settling on the local signed ledger instead"
            return
        self._say("starting the chain (anvil) and deploying the contracts")
        port = free_port()
        child = self.stage.children.start(
            "anvil", [anvil, "--port", str(port), "--silent", "--block-time", "1", "--mixed-mining"]
        )
        wait_until(lambda: accepts(port), "anvil", timeout_s=20, child=child)
        url = self.stage.chain_url = f"http://127.0.0.1:{port}"
        sender = run([program("fedge-coordinator"), "keys", str(self._keys)]).splitlines()[1].split()[-1]
        _rpc(url, "anvil_setBalance", [sender, hex(_WEI)])
        deploy = ["deploy", "--rpc", url, "--keys", str(self._keys), "--out", str(self._manifest)]
        run([program("fedge-coordinator"), *deploy, "--activation-delay", "1"])

    def _authority(self) -> None:
        self._say("founding the fleet's certificate authority")
        command = [program("fedge-ca"), "init", "--dir", str(self._ca), "--fleet", FLEET]
        command += ["--listen", f"127.0.0.1:{self._ca_port}", "--name", "127.0.0.1"]
        command += ["--broker-url", f"mqtts://127.0.0.1:{self._port}"]
        if self.stage.chain_url is not None:
            manifest = json.loads(self._manifest.read_text())
            registry = manifest["contracts"]["DeviceRegistry"]["address"]
            command += ["--chain-id", str(manifest["chain_id"]), "--registry", registry]
        run(command)
        issue = [program("fedge-ca"), "issue", "--dir", str(self._ca), "--kind", "coordinator"]
        run([*issue, "--out", str(self._identity)])
        child = self.stage.children.start("ca", [program("fedge-ca"), "run", "--dir", str(self._ca)])
        wait_until(lambda: accepts(self._ca_port), "the CA", timeout_s=20, child=child)

    def _broker(self) -> None:
        mosquitto = find("mosquitto")
        if mosquitto is None:
            raise DemoError("mosquitto is not installed; scripts/demo installs it when it may use apt")
        self._say("starting Mosquitto: TLS 1.3, client certificates, a topic tree for each device alone")
        folder = self.stage.folder / "mosquitto"
        command = [program("fedge-ca"), "broker", "--dir", str(self._ca), "--out", str(folder)]
        command += ["--port", str(self._port), "--name", "127.0.0.1", "--user", _user()]
        run(command)
        child = self.stage.children.start("mosquitto", [mosquitto, "-c", str(folder / "mosquitto.conf")])
        wait_until(lambda: accepts(self._port), "Mosquitto", timeout_s=20, child=child)

    def _coordinator(self) -> None:
        self._say("starting the coordinator")
        stage, identity = self.stage, self._identity
        state = stage.folder / "coordinator"
        state.mkdir(mode=0o700)
        held_out = [str(unseen.path) for unseen in stage.data.unseen] if stage.data is not None else []
        chain = ""
        if stage.chain_url is not None:
            chain = (
                f'\n[chain]\nurls = ["{stage.chain_url}"]\nmanifest = "{self._manifest}"\n'
                f'sender_key = "{self._keys / "sender.key"}"\n'
            )
        config = stage.folder / "coordinator.toml"
        config.write_text(
            f'fleet = "{FLEET}"\nstate_dir = "{state}"\nsocket = "{stage.socket}"\n'
            f'committee_keys = ["{self._keys / "committee.key"}"]\n\n'
            f'[identity]\nca = "{identity / "ca.pem"}"\ncert = "{identity / "cert.pem"}"\n'
            f'key = "{identity / "key.pem"}"\n\n[ca]\nurl = "https://127.0.0.1:{self._ca_port}"\n\n'
            f'[broker]\nhost = "127.0.0.1"\nport = {self._port}\n{chain}\n'
            f"[metrics]\nport = {free_port()}\n\n[held_out]\n{JOB} = {json.dumps(held_out)}\n"
        )
        command = [program("fedge-coordinator"), "run", "--config", str(config)]
        child = stage.coordinator = stage.children.start("coordinator", command)
        wait_until(stage.socket.exists, "the coordinator", timeout_s=30, child=child)

    def _devices(self) -> None:
        stage = self.stage
        reason = kernel.why_not()
        if reason is not None:
            stage.parts_off["ebpf"] = reason
        else:
            self._say("attaching the eBPF programs: each device may reach its broker and its CA, nothing else")
            stage.kernel = KernelStage(stage.folder)
            stage.kernel.open()
        if stage.data is None:
            raise DemoError("no data")
        for number, data in enumerate(stage.data.devices, start=1):
            place = None
            if stage.kernel is not None:
                rules = [f"127.0.0.1:{self._port}/tcp", f"127.0.0.1:{self._ca_port}/tcp"]
                place = stage.kernel.confine(number, rules)
            device = fleet_module.make_device(
                number,
                stage.folder / "devices",
                data,
                place.pin_dir if place is not None else None,
                place.cgroup if place is not None else None,
            )
            device.confinement = place
            stage.devices.append(device)
        self._say(f"enrolling {len(stage.devices)} devices, a token each")
        with ThreadPoolExecutor(_ENROL_AT_ONCE) as pool:
            list(pool.map(self._enroll, stage.devices))

    def _enroll(self, device: Device) -> None:
        token = run([program("fedge-ca"), "token", "create", "--dir", str(self._ca)]).strip()
        fleet_module.enroll(device, token)

    def _write_job(self) -> None:
        options = self.stage.options
        document = yaml.safe_load(_JOB_FILE.read_text())
        spec = document["spec"]
        spec["model"]["seed"] = options.seed
        spec["rollout"]["rounds"] = options.rounds
        spec["cohort"] |= {
            "target": options.devices,
            "minimum": max(2, options.devices - 2),
            "readySeconds": 60,
            "phaseSeconds": 4,
        }
        spec["rewards"]["epochRounds"] = options.rounds
        spec["privacy"]["floor"] = max(2, options.devices - 3)
        self.stage.job_document = document
        path = self.stage.folder / "job.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))


def _user() -> str:
    return "root" if os.geteuid() == 0 else ""


def _rpc(url: str, method: str, params: list[object]) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})  # noqa: S310 - our own anvil
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        if "error" in json.loads(answer.read()):
            raise DemoError(f"{method} was refused by the chain")
