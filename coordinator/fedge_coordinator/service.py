"""The coordinator process: builds the parts, runs them, stops them."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from importlib import metadata
from pathlib import Path
from typing import Final

import sdnotify
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedge_coordinator.api.app import build_app
from fedge_coordinator.api.events import EventHub
from fedge_coordinator.api.observing import Observing
from fedge_coordinator.api.probes import build_probes
from fedge_coordinator.api.server import serve, serve_loopback
from fedge_coordinator.api.steering import StoreFleet
from fedge_coordinator.config import Config
from fedge_coordinator.enrolment.members import HttpsSource, Members, open_members
from fedge_coordinator.federation.finish import Finisher
from fedge_coordinator.federation.hub import Hub
from fedge_coordinator.federation.intake import Intake
from fedge_coordinator.federation.membership import LoggedMembership, binding_of
from fedge_coordinator.federation.observer import Event
from fedge_coordinator.federation.post import Post
from fedge_coordinator.federation.publishing import Publisher
from fedge_coordinator.federation.retention import Retention
from fedge_coordinator.federation.runner import JobRunner, Parts
from fedge_coordinator.federation.settling import Settler
from fedge_coordinator.metrics import Metrics
from fedge_coordinator.settlement.chain import ChainSettlement
from fedge_coordinator.settlement.errors import RpcUnavailableError
from fedge_coordinator.settlement.interface import Settlement
from fedge_coordinator.settlement.ledger import LedgerSettlement
from fedge_coordinator.settlement.manifest import read_manifest, verify_deployment
from fedge_coordinator.settlement.rpc import JsonRpc
from fedge_coordinator.settlement.signer import LocalSigner
from fedge_coordinator.store import Store, open_store
from fedge_coordinator.store.errors import JobStateError
from fedge_coordinator.store.jobs import JobStatus
from fedge_coordinator.store.journal import RoundKey
from fedge_protocol.certificates import coordinator_name
from fedge_protocol.membership import Change, Entry
from fedge_transport.blobs import BlobPublisher
from fedge_transport.connection import Connection
from fedge_transport.settings import ConnectionSettings

_log = logging.getLogger(__name__)
_RECEIVE_MAXIMUM: Final = 256
_RUNNABLE: Final = frozenset({JobStatus.PENDING, JobStatus.RUNNING})


def run(config: Config) -> int:
    """Run the coordinator until SIGTERM or SIGINT; returns the exit status."""
    os.umask(0o077)
    return asyncio.run(_Service(config).serve())


def clock_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


class _Service:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._stop = asyncio.Event()
        self._events = EventHub()
        self._group: asyncio.TaskGroup | None = None

    async def serve(self) -> int:
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, self._stop.set)
        config, notifier = self._config, sdnotify.SystemdNotifier()
        async with AsyncExitStack() as stack:
            store = open_store(Path(config.state_dir) / "coordinator.db", exclusive=True)
            stack.callback(store.close)
            were_online = store.devices.all_offline()
            settlement = await self._settlement(store, stack)
            connection = await stack.enter_async_context(Connection(_connection_settings(config)))
            source = HttpsSource(
                config.ca.url,
                ca=Path(config.identity.ca),
                cert=Path(config.identity.cert),
                key=Path(config.identity.key),
            )
            stack.push_async_callback(source.close)
            serving = asyncio.create_task(
                self._run_parts(store, settlement, connection, source, were_online), name="parts"
            )
            stopping = asyncio.create_task(self._stop.wait(), name="stop")
            notifier.notify("READY=1")
            await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
            notifier.notify("STOPPING=1")
            self._events.close()  # open watches would hold the shutdown up
            for task in (serving, stopping):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await serving
        return 0

    async def _run_parts(
        self,
        store: Store,
        settlement: Settlement,
        connection: Connection,
        source: HttpsSource,
        were_online: frozenset[str],
    ) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._build(store, settlement, connection, source, were_online)

    async def _settlement(self, store: Store, stack: AsyncExitStack) -> Settlement:
        config = self._config
        committee = [LocalSigner.from_file(Path(path)) for path in config.committee_keys]
        engine = store.database.engine
        if config.chain is None:
            ledger = LedgerSettlement(engine, committee=committee, threshold=len(committee))
            stack.callback(ledger.close)
            return ledger
        manifest = read_manifest(Path(config.chain.manifest))
        rpc = await stack.enter_async_context(JsonRpc(config.chain.urls, chain_id=manifest.chain_id))
        try:
            await verify_deployment(rpc, manifest)
        except RpcUnavailableError as error:
            # Rounds go on without the chain; the client uses no endpoint before it has compared the chain id.
            _log.warning("the deployment could not be checked, settlement waits: %s", error)
        sender = LocalSigner.from_file(Path(config.chain.sender_key))
        chain = ChainSettlement(engine, rpc, manifest, committee=committee, sender=sender)
        stack.callback(chain.close)
        return chain

    def _build(
        self,
        store: Store,
        settlement: Settlement,
        connection: Connection,
        source: HttpsSource,
        were_online: frozenset[str],
    ) -> None:
        group, config = self._started(), self._config
        events, metrics = self._events, Metrics(_version())
        observer = Observing(events, metrics)
        metrics.watch_store(store)
        metrics.certificate_expires(_certificate_expiry(Path(config.identity.cert)))
        publisher = Publisher(Path(config.state_dir) / "published", store)
        members = open_members(
            Path(config.state_dir),
            ca=Path(config.identity.ca),
            fleet=config.fleet,
            clock=time.time,
            on_change=lambda entry: _membership_changed(entry, store, settler, hub),
        )
        settler = Settler(
            config.fleet,
            store,
            settlement,
            publisher,
            observer,
            lambda: [binding_of(member) for member in members.all()],
            clock_ms,
            Retention(store, config.retention.rounds),
        )
        metrics.watch_settlement(lambda: settler.pending)
        post = Post(connection, config.fleet, _private_key(Path(config.identity.key)))
        blobs = BlobPublisher(connection, config.fleet)
        intake = Intake(config.fleet, LoggedMembership(members, store.devices.revoked))
        hub = Hub(config.fleet, connection, intake, store, post, blobs, observer, clock_ms, were_online)
        held_out = {job: [Path(path) for path in paths] for job, paths in config.held_out.items()}

        parts = Parts(
            fleet=config.fleet,
            store=store,
            post=post,
            publisher=blobs,
            settlement=settlement,
            finisher=Finisher(config.fleet, store, settlement, held_out, clock_ms),
            observer=observer,
            expected=lambda: hub.expected() & {member.device_id for member in members.all()},
            connected=hub.connected,
            finished=settler.poke,
            clock_ms=clock_ms,
            random=os.urandom,
        )
        changed = self._job_changer(store, hub, parts)
        operations = StoreFleet(
            store,
            config.fleet,
            events,
            on_change=changed,
            phase_of=lambda key: _phase(hub, key),
            settlement=settlement,
            clock_ms=clock_ms,
        )
        # Jobs before the hub: each stands where its journal ends before the first message is taken.
        for job in store.jobs.all():
            changed(job.name)
        group.create_task(_follow(members, source), name="membership")
        group.create_task(hub.run(), name="hub")
        group.create_task(settler.run(), name="settlement")
        group.create_task(serve(build_app(operations), Path(config.socket)), name="api")
        if config.metrics is not None:
            probes = build_probes(metrics.registry, lambda: [] if connection.connected else ["no broker connection"])
            group.create_task(serve_loopback(probes, config.metrics.host, config.metrics.port), name="metrics")

    def _job_changer(self, store: Store, hub: Hub, parts: Parts) -> Callable[[str], None]:
        """Start the runner of a job that may run, tell one that runs already."""

        def changed(name: str) -> None:
            runner = hub.runners.get(name)
            if runner is not None:
                runner.poke()
            elif _needs_runner(store, name):
                hub.runners[name] = JobRunner(name, parts)
                self._started().create_task(self._run_job(name, store, hub, parts), name=f"job {name}")

        return changed

    async def _run_job(self, name: str, store: Store, hub: Hub, parts: Parts) -> None:
        runner = hub.runners[name]
        try:
            await runner.run()
        except Exception as error:  # noqa: BLE001 - said to the operator as the job's state
            # One job's fault must not take the others down; a fault of the store takes the process down below.
            _log.exception("job %s failed", name)
            with suppress(JobStateError):  # paused or cancelled in the meantime: that stands
                store.jobs.set_status(name, JobStatus.FAILED, f"{type(error).__name__}: {error}"[:512])
            parts.observer.happened(Event("job-failed", clock_ms(), {"job": name, "reason": str(error)[:200]}))
            return
        finally:
            del hub.runners[name]
        self._job_changer(store, hub, parts)(name)

    def _started(self) -> asyncio.TaskGroup:
        if self._group is None:
            raise RuntimeError("not serving")
        return self._group


def _needs_runner(store: Store, name: str) -> bool:
    """A job that may run, or one whose open round is to be ended because it was cancelled."""
    status = store.jobs.get(name).status
    return status in _RUNNABLE or (status is JobStatus.CANCELLED and store.journal.open_attempt(name) is not None)


async def _follow(members: Members, source: HttpsSource) -> None:
    await members.follow(source)


def _membership_changed(entry: Entry, store: Store, settler: Settler, hub: Hub) -> None:
    store.devices.set_revoked(entry.device_id, revoked=entry.change is Change.REVOKED)
    if entry.change is not Change.REVOKED:
        hub.member_joined(entry.device_id)
    settler.poke()


def _phase(hub: Hub, key: RoundKey) -> str:
    runner = hub.runners.get(key.job)
    return runner.phase if runner is not None else ""


def _connection_settings(config: Config) -> ConnectionSettings:
    return ConnectionSettings(
        host=config.broker.host,
        port=config.broker.port,
        client_id=coordinator_name(config.fleet),
        ca_file=Path(config.identity.ca),
        cert_file=Path(config.identity.cert),
        key_file=Path(config.identity.key),
        server_name=config.broker.server_name,
        receive_maximum=_RECEIVE_MAXIMUM,
    )


def _private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{path} is no P-256 key; see fedge-ca issue")
    return key


def _certificate_expiry(path: Path) -> float:
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()


def _version() -> str:
    try:
        return metadata.version("fedge")
    except metadata.PackageNotFoundError:
        return "unpackaged"
