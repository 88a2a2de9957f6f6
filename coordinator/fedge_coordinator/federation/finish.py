"""A summed round becomes a checkpoint: next weights, score, signed record, all in one commit."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedge_coordinator.aggregation.combine import aggregate_bytes, mean_update
from fedge_coordinator.aggregation.evaluation import Evaluator, load_held_out
from fedge_coordinator.aggregation.strategies import apply_mean
from fedge_coordinator.federation.observer import Value
from fedge_coordinator.modelkit.spec import parse_model_spec
from fedge_coordinator.rounds.effects import RoundSummed
from fedge_coordinator.rounds.evidence import evidence_of, totals_of
from fedge_coordinator.rounds.plan import RoundPlan
from fedge_coordinator.settlement.documents import Bucket, Participant, RoundBody, encode_document, hex_text
from fedge_coordinator.settlement.interface import Settlement
from fedge_coordinator.store import Store
from fedge_coordinator.store.jobs import Job, Progress
from fedge_coordinator.store.journal import RoundKey, RoundStatus
from fedge_protocol import jobspec
from fedge_protocol.messages import BlobRef
from fedge_protocol.secagg.padding import coordinate_range_for


@dataclass(frozen=True)
class Finished:
    """A committed checkpoint. `summary` goes to the event stream."""

    weights: BlobRef
    summary: dict[str, Value]


class Finisher:
    """Aggregates, evaluates and records.

    Args:
        fleet: name of the fleet.
        store: where everything is kept.
        settlement: where checkpoints are published.
        held_out: npz files by job name, to score checkpoints on.
        clock_ms: Unix milliseconds.
    """

    def __init__(
        self,
        fleet: str,
        store: Store,
        settlement: Settlement,
        held_out: Mapping[str, Sequence[Path]],
        clock_ms: Callable[[], int],
    ) -> None:
        self._fleet = fleet
        self._store = store
        self._settlement = settlement
        self._held_out = held_out
        self._clock_ms = clock_ms
        self._evaluators: dict[str, Evaluator] = {}

    async def finish(self, key: RoundKey, plan: RoundPlan, outcome: RoundSummed) -> Finished:
        """Make the round's result durable; repeated after a crash, it gives the same bytes.

        Raises:
            ValueError: the aggregate is not finite.
        """
        store, offer = self._store, plan.offer
        job = store.jobs.get(key.job)
        totals = totals_of(outcome.buckets)
        mean = mean_update(
            totals,
            dim=offer.dim,
            coordinate_range=coordinate_range_for(offer.training.clip_norm, offer.dim),
            weight_max=offer.training.weight_max,
            rotation_seed=plan.rotation_seed,
        )
        before = store.blobs.get(offer.weights.sha256)
        after = apply_mean(before, mean, server_learning_rate=job.document.spec.aggregation.server_learning_rate)
        aggregate = aggregate_bytes(totals)
        proofs = [evidence_of(bucket, offer.suite) for bucket in outcome.buckets]
        # Side by side: each of them waits for the disk.
        weights, aggregate_hash, *proof_hashes = await asyncio.gather(
            *(asyncio.to_thread(store.blobs.put, content) for content in (after, aggregate, *proofs))
        )
        evidence = {f"bucket-{number}": hex_text(digest) for number, digest in enumerate(proof_hashes)}
        evidence["aggregate"] = hex_text(aggregate_hash)
        metrics = await self._score(job, after)
        body = self._record(key, plan, outcome, weights, aggregate_hash, metrics, evidence, job)
        bytes_up = sum(c.vector.size for bucket in outcome.buckets for c in bucket.contributions)
        progress = Progress(
            job=key.job,
            round=key.round,
            attempt=key.attempt,
            finished_at_ms=self._clock_ms(),
            participants=len(body.participants),
            dropouts=sum(len(bucket.dropped) for bucket in outcome.buckets),
            bytes_up=bytes_up,
            metrics=metrics,
        )
        # Recording in settlement needs no network and so does not give way to another task inside the transaction.
        with store.transaction() as connection:
            record = await self._settlement.publish_checkpoint(body, connection=connection)
            store.journal.finish(key, RoundStatus.FINISHED, encode_document(record))
            store.jobs.advance(progress, weights)
        summary: dict[str, Value] = {
            "participants": progress.participants,
            "dropouts": progress.dropouts,
            "bytes_up": bytes_up,
            **metrics,
        }
        return Finished(BlobRef(weights, len(after)), summary)

    async def _score(self, job: Job, weights: bytes) -> dict[str, float]:
        paths = self._held_out.get(job.name)
        if not paths or job.graph is None:
            return {}
        evaluator = self._evaluators.get(job.name)
        if evaluator is None:
            graph = self._store.blobs.get(job.graph)
            outputs = _outputs_of(job)
            evaluator = await asyncio.to_thread(lambda: Evaluator(graph, load_held_out(paths, outputs)))
            self._evaluators[job.name] = evaluator
        return await asyncio.to_thread(evaluator.score, weights)

    def _record(
        self,
        key: RoundKey,
        plan: RoundPlan,
        outcome: RoundSummed,
        weights: bytes,
        aggregate_hash: bytes,
        metrics: Mapping[str, float],
        evidence: Mapping[str, str],
        job: Job,
    ) -> RoundBody:
        rewards = job.document.spec.rewards
        participants = sorted(
            (
                Participant(
                    device=hex_text(c.entry.chain_address),
                    weight=c.entry.ready.weight,
                    update_hash=hex_text(c.vector.sha256),
                    bucket=number,
                    receipt=hex_text(c.receipt),
                )
                for number, bucket in enumerate(outcome.buckets)
                for c in bucket.contributions
            ),
            key=lambda participant: participant.device,
        )
        return RoundBody(
            fleet=self._fleet,
            job=key.job,
            round=key.round,
            model_before=hex_text(plan.offer.weights.sha256),
            model_after=hex_text(weights),
            aggregate_hash=hex_text(aggregate_hash),
            cohort=tuple(sorted(hex_text(address) for address in outcome.cohort)),
            buckets=tuple(
                Bucket(root=hex_text(hashlib.sha256(bucket.body).digest()), attempt=key.attempt)
                for bucket in outcome.buckets
            ),
            participants=tuple(participants),
            budget=rewards.per_round if rewards is not None else "0",
            metrics=dict(metrics),
            evidence=dict(evidence),
        )


def _outputs_of(job: Job) -> int:
    return parse_model_spec(jobspec.model_section(job.document), "spec.model").output_dim
