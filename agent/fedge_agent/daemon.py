"""Builds the parts of the daemon and runs them: event loop, signals, watchdog, renewal. The keys live here."""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import sdnotify
from cryptography.hazmat.primitives.asymmetric import ec

from fedge_agent import control, resident
from fedge_agent.admission.controller import AdmissionController, SystemClock
from fedge_agent.admission.machine import Decision
from fedge_agent.admission.signals import SignalSampler
from fedge_agent.admission.worker_control import Limits, WorkerControl
from fedge_agent.config import Config
from fedge_agent.federation.client import Belonging, FederationClient, presence_message
from fedge_agent.federation.driver import Parts
from fedge_agent.federation.handover import empty
from fedge_agent.federation.prekey_pool import PrekeyPool
from fedge_agent.federation.voice import Voice
from fedge_agent.identity import keys, record
from fedge_agent.identity.errors import CaUnreachableError, IdentityError
from fedge_agent.identity.host import host_of
from fedge_agent.identity.record import Enrolment
from fedge_agent.kernel_layer import KernelLayer
from fedge_agent.model_slot import ModelSlots
from fedge_agent.network_path import NetworkPath, broker_of, connection_settings
from fedge_agent.status import StatusBoard
from fedge_agent.store import DeviceStore
from fedge_agent.waiting import LEAVING
from fedge_protocol import topics
from fedge_protocol.certificates import CertificateRefusedError, DeviceCertificates
from fedge_protocol.conditions import ConditionReason as AdmissionReason
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.health import NETWORK_UNGUARDED
from fedge_protocol.messages import Presence
from fedge_transport.blobs import BlobFetcher
from fedge_transport.connection import Connection
from fedge_transport.settings import Will

_log = logging.getLogger(__name__)
_PR_SET_DUMPABLE: Final = 4
_FINISH_GRACE_S: Final = 5.0
_RENEWAL_CHECK_S: Final = 3600.0
_SETTLED_S: Final = 30.0
_PAUSED: Final = "paused"
"""A file of the state directory: the owner's word outlives the daemon."""
_MIB: Final = 1024 * 1024


def run(config: Config) -> bool:
    """Run the daemon until SIGTERM or SIGINT (False), or until the owner leaves the fleet (True: wait again).

    Raises:
        IdentityError: not enrolled, or the keys cannot be used.
        AdmissionRequiredError: network admission is required and not there.
        OSError: a directory cannot be used.
    """
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # no core dump, no ptrace: the keys stay here
    os.umask(0o077)
    return asyncio.run(_Daemon(config).serve())


class _Daemon:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._notifier = sdnotify.SystemdNotifier()
        self._stop = asyncio.Event()
        self._stopped = threading.Event()
        self._board: StatusBoard | None = None
        self._client: FederationClient | None = None
        self._path: NetworkPath | None = None
        self._leaving = False
        self._told = ""

    async def serve(self) -> bool:
        config = self._config
        enrolment = record.load(config.state_dir)
        identity = keys.load(config.state_dir)
        kernel = KernelLayer(config.kernel)
        store = DeviceStore(config.state_dir / "state.db", lambda: int(time.time() * 1000))
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, self._stop.set)
        missing = kernel.missing_features() | (0 if kernel.network.enforced else NETWORK_UNGUARDED)
        boot = os.urandom(16)

        birth, farewell = (
            presence_message(identity, enrolment.fleet, Presence(online, boot, _version(), missing))
            for online in (True, False)
        )
        path = self._path = NetworkPath.of(config, kernel.network)
        place = broker_of(config, enrolment)
        will = Will(topics.presence(enrolment.fleet, enrolment.device_id), farewell)
        settings = connection_settings(place, enrolment, will)
        try:
            connection = Connection(settings, route=path.route)
            admission = self._admission(kernel)
            parts = self._parts(enrolment.fleet, identity, store, connection, admission, kernel)
            client = FederationClient(
                _belonging(enrolment),
                identity,
                config.consent,
                connection,
                parts,
                birth=birth,
                farewell=farewell,
                host=host_of(identity, enrolment.fleet),
            )
            self._client = client
            self._board = StatusBoard(
                enrolment.fleet,
                enrolment.device_id,
                client,
                admission,
                kernel,
                store,
                trouble=lambda: connection.trouble,
                way_out=lambda: {"broker": str(place), **path.told()},
            )
            # A disk that can never speak again would only push the one off the broker that still may.
            async with contextlib.nullcontext() if client.sessions.over else connection:
                await self._until_stopped(client, admission, enrolment, connection)
        finally:
            path.close()
            store.close()
            kernel.close()
        return self._leaving

    def _admission(self, kernel: KernelLayer) -> AdmissionController:
        sampler = SignalSampler(run_queue=kernel.run_queue)
        return AdmissionController(
            sampler,
            self._config.admission,
            SystemClock(),
            publish=self._decided,
            probes=kernel.switch_probes,
        )

    def _decided(self, decision: Decision) -> None:
        _log.info("training admission: %s: %s", decision.state.value, decision.text)
        if self._client is not None:
            self._client.admission_changed()

    def _parts(
        self,
        fleet: str,
        identity: keys.Identity,
        store: DeviceStore,
        connection: Connection,
        admission: AdmissionController,
        kernel: KernelLayer,
    ) -> Parts:
        config = self._config
        folders = {name: config.state_dir / name for name in ("blobs", "work", "outgoing")}
        for folder in folders.values():
            folder.mkdir(mode=0o700, exist_ok=True)
        empty(folders["work"])
        voice = Voice(fleet, identity, store, connection, folders["outgoing"])
        memory = config.worker.memory_max_mib
        return Parts(
            store=store,
            voice=voice,
            prekeys=PrekeyPool(fleet, identity, store, voice, os.urandom),
            fetcher=BlobFetcher(connection, fleet, folders["blobs"]),
            admission=admission,
            control=WorkerControl(
                kernel.cgroup,
                Limits(None if memory is None else memory * _MIB, config.worker.cpu_max_percent),
            ),
            sources=config.sources,
            blob_dir=folders["blobs"],
            work_dir=folders["work"],
            outgoing_dir=folders["outgoing"],
            changed=self._tell_systemd,
            landed=ModelSlots(config.model_dir).landed,
        )

    async def _until_stopped(
        self,
        client: FederationClient,
        admission: AdmissionController,
        enrolment: Enrolment,
        connection: Connection,
    ) -> None:
        board = self._board
        if board is None:
            return
        server = await control.serve(
            self._config.control_socket,
            {
                "status": board.full,
                "pause": lambda: self._pause(admission),
                "resume": lambda: self._resume(admission),
                "leave": self._let_go,
            },
        )
        if self._pause_file.exists():
            admission.freeze()
        # None of these ends while the daemon runs; if one does, the daemon ends with its error instead of limping on.
        vital = [
            asyncio.create_task(client.run(), name="federation"),
            asyncio.create_task(admission.run(), name="admission"),
            asyncio.create_task(self._renewal(enrolment, connection), name="renewal"),
        ]
        others = [
            asyncio.create_task(self._stop.wait(), name="stop"),
            asyncio.create_task(self._watchdog(), name="watchdog"),
            asyncio.create_task(_stay_small(client), name="memory"),
        ]
        self._notifier.notify("READY=1")
        self._tell_systemd()
        try:
            await asyncio.wait([*vital, others[0]], return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set():
                await self._leave(client)
        finally:
            if not self._leaving:
                self._notifier.notify("STOPPING=1\nSTATUS=stopped")
            self._stopped.set()
            server.close()
            for task in (*others, *vital):
                task.cancel()
            results = await asyncio.gather(*vital, *others, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    @property
    def _pause_file(self) -> Path:
        return self._config.state_dir / _PAUSED

    def _pause(self, admission: AdmissionController) -> dict[str, Any]:
        self._pause_file.touch(mode=0o600)
        protected = admission.freeze().reason is AdmissionReason.PROTECTED
        when = "when the present round has ended" if protected else "now"
        return {"admission": f"paused {when}, until fedge-agent resume"}

    def _resume(self, admission: AdmissionController) -> dict[str, Any]:
        self._pause_file.unlink(missing_ok=True)
        admission.thaw()
        return {"admission": "not paused any more; training goes on when the device is quiet"}

    def _let_go(self) -> dict[str, Any]:
        """End the session and let go of the keys; the note of `fedge-agent leave` says that the owner wants it."""
        if not (self._config.state_dir / LEAVING).exists():
            return {"error": f"no {self._config.state_dir / LEAVING}: fedge-agent leave, as root, is how to leave"}
        self._leaving = True
        self._stop.set()
        return {"leaving": True}

    async def _leave(self, client: FederationClient) -> None:
        """Finish the short exchanges if they are under way, else leave the round, and say goodbye."""
        driver = client.round
        if driver is not None and driver.outcome is None:
            if driver.machine.frozen_allowed:
                driver.step(lambda: driver.machine.refuse(Reason.NOT_ADMITTED, "the agent is stopping"))
                await asyncio.sleep(0)
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_FINISH_GRACE_S):
                        await driver.ended.wait()
        await client.farewell()

    async def _watchdog(self) -> None:
        usec = int(os.environ.get("WATCHDOG_USEC", "0") or 0)
        while usec:
            self._notifier.notify("WATCHDOG=1")
            await asyncio.sleep(usec / 2_000_000)

    async def _renewal(self, enrolment: Enrolment, connection: Connection) -> None:
        while True:
            if time.time() >= enrolment.renew_at():
                from fedge_agent.identity import renewal  # noqa: PLC0415 - brings HTTP, for seconds in months

                try:
                    enrolment = await asyncio.to_thread(
                        renewal.renew,
                        self._config.state_dir,
                        rotate_key=False,
                        sleep=self._sleep_unless_stopped,
                        way=self._path,
                    )
                    await connection.reconnect()
                    _log.info("certificate renewed, valid until %s", time.ctime(enrolment.device.not_after))
                except (IdentityError, OSError) as error:
                    _log.warning("the certificate could not be renewed: %s", error)
            await asyncio.sleep(_RENEWAL_CHECK_S)

    def _sleep_unless_stopped(self, seconds: float) -> None:
        """Between attempts at a renewal, in its thread, which the process waits for at its end."""
        if self._stopped.wait(seconds):
            raise CaUnreachableError("the agent is stopping")

    def _tell_systemd(self) -> None:
        line = self._board.line() if self._board is not None else self._told
        if line != self._told:
            self._told = line
            self._notifier.notify(f"STATUS={line}")


async def _stay_small(client: FederationClient) -> None:
    memory = resident.IdleMemory(resident.resident_bytes, resident.give_back)
    while True:
        await asyncio.sleep(_SETTLED_S)
        if client.round is None or client.round.outcome is not None:
            memory.look()


def _belonging(enrolment: Enrolment) -> Belonging:
    certificates = DeviceCertificates(enrolment.ca, enrolment.fleet)

    def check_certificate(der: bytes) -> tuple[str, ec.EllipticCurvePublicKey]:
        try:
            found = certificates.verify(der, now=time.time())
        except CertificateRefusedError as error:
            raise RefusedError(Reason.BAD_SIGNATURE, str(error)) from None
        return found.device_id, found.public_key

    return Belonging(
        fleet=enrolment.fleet,
        device=enrolment.device_id,
        coordinator_key=enrolment.coordinator_key,
        domain=enrolment.chain_domain,
        check_certificate=check_certificate,
    )


def _version() -> str:
    # importlib.metadata would bring zip files and e-mail, a megabyte for one word
    found = (place for folder in sys.path for place in Path(folder).glob("fedge-*.dist-info"))
    first = next(found, None)
    return "unpackaged" if first is None else first.name.removeprefix("fedge-").removesuffix(".dist-info")
