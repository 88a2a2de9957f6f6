"""The folder in which a job's records are published, and handed to auditors.

records/000001.json   weights/000001.f32   epochs/000001.json   evidence/000001/NAME
"""

import os
import re
from pathlib import Path

from fedge_coordinator.settlement.documents import EpochDocument, RoundRecord, encode_document
from fedge_coordinator.settlement.findings import Evidence, epoch_path, evidence_path, record_path, weights_path

_NUMBERED = re.compile(r"(\d{6,16})\.(?:json|f32)")
_FOLDER = re.compile(r"\d{6,16}")


def write_record(root: Path, record: RoundRecord) -> Path:
    """Write a round's record; call it after the transaction that made it was committed."""
    return _write(root / record_path(record.body.round), encode_document(record))


def write_weights(root: Path, round_number: int, weights: bytes) -> Path:
    """Write the model file after a round (0: the first model)."""
    return _write(root / weights_path(round_number), weights)


def write_epoch(root: Path, document: EpochDocument) -> Path:
    """Write an epoch's document."""
    return _write(root / epoch_path(document.epoch), encode_document(document))


def write_evidence(root: Path, round_number: int, name: str, content: bytes) -> Path:
    """Write a further file of a round, whose hash the record names."""
    return _write(root / evidence_path(round_number, name), content)


def read_bundle(root: Path) -> Evidence:
    """Read a published folder; files of other names are passed over.

    Raises:
        OSError: when a file cannot be read.
    """
    return Evidence(
        records=_numbered(root / "records"),
        weights=_numbered(root / "weights"),
        epochs=_numbered(root / "epochs"),
        files={
            (int(folder.name), file.name): file.read_bytes()
            for folder in sorted((root / "evidence").glob("*"))
            if _FOLDER.fullmatch(folder.name)
            for file in sorted(folder.iterdir())
        },
    )


def _numbered(folder: Path) -> dict[int, bytes]:
    found = {}
    for file in sorted(folder.glob("*")):
        matched = _NUMBERED.fullmatch(file.name)
        if matched is not None:
            found[int(matched[1])] = file.read_bytes()
    return found


def _write(path: Path, content: bytes) -> Path:
    """Replace a file as a whole, so that a reader or a power cut never meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return path
