"""What the demo leaves behind: `summary.json`, a plot, and a text that a person can read."""

import json
from pathlib import Path
from typing import Any

from fedge_coordinator.demo.scenario import RoundResult, Scenario
from fedge_coordinator.demo.stage import JOB, Stage


def collect(stage: Stage, scenario: Scenario, api: Any, audit: dict[str, Any]) -> dict[str, Any]:
    """Everything a program wants to know about the run."""
    rounds = scenario.tally.rounds
    checkpoints: list[dict[str, Any]] = api.get(f"/v1/checkpoints?job={JOB}")
    rewards: list[dict[str, Any]] = api.get(f"/v1/rewards?job={JOB}")
    spec: Any = stage.job_document["spec"]
    pool = int(spec["rewards"]["perRound"]) * len(rounds)
    unseen = stage.data.unseen if stage.data is not None else ()
    uploads = [result.bytes_up / result.participants for result in rounds if result.participants]
    return {
        "rounds": len(rounds),
        "devices": len(stage.devices),
        "secure_floor_note": f"{len(stage.devices)} devices are below the secure floor of 16",
        "accuracy": [result.accuracy for result in rounds],
        "loss": [result.loss for result in rounds],
        "accuracy_by_person": {
            path_stem: [result.by_person.get(path_stem) for result in rounds]
            for path_stem in (person.path.stem for person in unseen)
        },
        "majority_class_accuracy": {person.path.stem: person.majority_accuracy for person in unseen},
        "participants": [result.participants for result in rounds],
        "dropouts_recovered": sum(result.dropouts for result in rounds),
        "rounds_aborted": scenario.tally.aborted,
        "pauses": sum(device.pauses for device in stage.devices),
        "bytes_up_per_device_round": round(sum(uploads) / len(uploads)) if uploads else 0,
        "checkpoints": [
            {"round": entry["round"], "weights": entry["weights"], "transaction": entry["txHash"]}
            for entry in checkpoints
        ],
        "reward_pool": str(pool),
        "rewards_paid": str(sum(int(entry["paid"]) for entry in rewards)),
        "balances": {entry["account"]: entry["paid"] for entry in rewards},
        "audit": audit,
        "parts_off": stage.parts_off,
        "seed": stage.options.seed,
    }


def write(summary: dict[str, Any], rounds: list[RoundResult], folder: Path) -> tuple[Path, Path | None]:
    """Write `summary.json` and, where matplotlib is, `accuracy.png`; returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "summary.json"
    path.write_text(json.dumps(summary, indent=2) + "\n")
    return path, _plot(rounds, summary, folder / "accuracy.png")


def _plot(rounds: list[RoundResult], summary: dict[str, Any], path: Path) -> Path | None:
    try:
        import matplotlib as mpl  # noqa: PLC0415 - an extra, and slow to import

        mpl.use("Agg")
        from matplotlib import pyplot as plt  # noqa: PLC0415
    except ImportError:
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    numbers = [result.round for result in rounds]
    for person, values in summary["accuracy_by_person"].items():
        (line,) = left.plot(numbers, values, marker="o", markersize=3, label=person)
        majority = summary["majority_class_accuracy"][person]
        left.axhline(majority, linestyle=":", color=line.get_color(), linewidth=1)
    left.set(title="Accuracy on people nobody trained on", xlabel="round", ylim=(0, 1))
    left.legend(title="dotted: always the commonest", loc="lower right", fontsize=8)
    right.plot(numbers, [result.loss for result in rounds], marker="o", markersize=3, color="tab:red")
    right.set(title="Loss on the same people", xlabel="round")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        for result in rounds:
            if result.dropouts:
                axes.axvline(result.round, color="gray", linestyle="--", linewidth=1)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def text(summary: dict[str, Any], summary_path: Path, plot: Path | None) -> str:
    """For people."""
    accuracy = summary["accuracy"]
    lines = [
        "",
        f"{summary['rounds']} rounds, secure aggregation on; {summary['secure_floor_note']}.",
    ]
    for person, values in summary["accuracy_by_person"].items():
        majority = summary["majority_class_accuracy"][person]
        lines.append(f"  {person}: accuracy {values[0]:.3f} -> {values[-1]:.3f}  (commonest exercise: {majority:.3f})")
    lines.append(f"  both: {accuracy[0]:.3f} -> {accuracy[-1]:.3f}")
    lines.append(
        f"  {_count(summary['dropouts_recovered'], 'drop-out')} recovered from, {_count(summary['pauses'], 'pause')}, "
        f"{summary['bytes_up_per_device_round']} bytes up a device and round"
    )
    settled = sum(entry["transaction"] is not None for entry in summary["checkpoints"])
    where = "on the chain" if "chain" not in summary["parts_off"] else "in the local ledger"
    count = settled if "chain" not in summary["parts_off"] else len(summary["checkpoints"])
    lines.append(f"  {count} checkpoints {where}; paid {summary['rewards_paid']} of {summary['reward_pool']} units:")
    lines += [f"    {account}  {paid}" for account, paid in summary["balances"].items()]
    audit = summary["audit"]
    lines.append(f"  audit: {audit['passed']} checks good, {audit['failed']} failed")
    lines += [f"  off: {part}: {reason}" for part, reason in summary["parts_off"].items()]
    lines.append(f"  summary: {summary_path}")
    if plot is not None:
        lines.append(f"  plot:    {plot}")
    return "\n".join(lines)
