# ruff: noqa: INP001 - a script beside a Foundry project, no package
"""Compile the contracts and write the artefacts that the Python package ships.

`python3 contracts/build.py` writes them; `--check` rebuilds from nothing and fails on any difference. The output
depends only on the sources, the locked compiler and `foundry.toml`: no dates, no absolute paths, no AST numbers.
Needs node and `npm ci` in this folder; standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CONTRACTS_DIR = Path(__file__).resolve().parent
FORGE = CONTRACTS_DIR / "node_modules" / ".bin" / "forge"
ARTEFACTS_DIR = CONTRACTS_DIR.parent / "coordinator" / "fedge_coordinator" / "settlement" / "artefacts"
DEPLOYABLE = (
    "AggregatorCommittee",
    "DeviceRegistry",
    "FedgeDemoToken",
    "FedgeTimelock",
    "ModelRegistry",
    "RewardDistributor",
)


class BuildError(Exception):
    """The contracts do not build, or the artefacts are stale; the message names the cure."""


def compile_all(scratch: Path) -> Path:
    """Compile `src` with forge into `scratch`, without any cache, and return forge's output folder.

    Raises:
        BuildError: forge is not installed or the compilation failed.
    """
    if not FORGE.exists():
        raise BuildError(f"{FORGE} is missing: run `npm ci` in {CONTRACTS_DIR}")
    out = scratch / "out"
    command = [
        str(FORGE),
        "build",
        "src",
        "--offline",
        "--force",
        "--out",
        str(out),
        "--cache-path",
        str(scratch / "c"),
    ]
    done = subprocess.run(command, cwd=CONTRACTS_DIR, capture_output=True, text=True, check=False)  # noqa: S603 - fixed
    if done.returncode != 0:
        raise BuildError(f"forge build failed with {done.returncode}:\n{done.stdout}{done.stderr}")
    return out


def artefact(out: Path, name: str) -> str:
    """Text of the artefact of contract `name`, as shipped.

    `immutables` lists (start, length) in bytes within `deployedBytecode` that the constructor fills in; mask them
    before comparing with `eth_getCode`. `sourceHash` is the SHA-256 over path and Keccak-256 of every source file.
    """
    built: dict[str, Any] = json.loads((out / f"{name}.sol" / f"{name}.json").read_text())
    metadata = built["metadata"]
    sources = {path: source["keccak256"] for path, source in metadata["sources"].items()}
    settings = {key: value for key, value in metadata["settings"].items() if key != "compilationTarget"}
    references = built["deployedBytecode"].get("immutableReferences", {})
    document = {
        "name": name,
        "solc": metadata["compiler"]["version"],
        "settings": settings,
        "sourceHash": hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest(),
        "abi": built["abi"],
        "immutables": sorted([at["start"], at["length"]] for places in references.values() for at in places),
        "bytecode": built["bytecode"]["object"],
        "deployedBytecode": built["deployedBytecode"]["object"],
    }
    return json.dumps(document, indent=1) + "\n"


def stale(artefacts: dict[str, str]) -> list[str]:
    """Names of shipped artefact files that are missing, differ from `artefacts`, or belong to no contract."""
    shipped = {path.name: path.read_text() for path in ARTEFACTS_DIR.glob("*.json")}
    return sorted(name for name in shipped.keys() | artefacts.keys() if shipped.get(name) != artefacts.get(name))


def refresh(artefacts: dict[str, str], *, check: bool) -> int:
    """Bring the shipped files up to date and return how many were not.

    Raises:
        BuildError: `check` is set and at least one file is stale; nothing is written.
    """
    differing = stale(artefacts)
    if check and differing:
        raise BuildError(f"stale artefacts {', '.join(differing)}: run `python3 contracts/build.py` and commit")
    ARTEFACTS_DIR.mkdir(parents=True, exist_ok=True)
    for name in differing:
        if name in artefacts:
            (ARTEFACTS_DIR / name).write_text(artefacts[name])
        else:
            (ARTEFACTS_DIR / name).unlink()
    return len(differing)


def main() -> int:
    """Write or check the artefacts; exit code 0 when all is well, 1 otherwise."""
    parser = argparse.ArgumentParser(description="Build the contracts' artefacts.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the shipped files are stale")
    check: bool = parser.parse_args().check
    try:
        with tempfile.TemporaryDirectory(prefix="fedge-contracts-") as scratch:
            out = compile_all(Path(scratch))
            artefacts = {f"{name}.json": artefact(out, name) for name in DEPLOYABLE}
        written = refresh(artefacts, check=check)
    except BuildError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{len(artefacts)} artefacts up to date ({written} written)\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
