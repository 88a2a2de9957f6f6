"""`fedge-agent bugreport`: gathers, redacts, writes one file, and says what is in it."""

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Final

from fedge_agent.bugreport.archive import write_archive
from fedge_agent.bugreport.redaction import Redactor
from fedge_agent.bugreport.sections import Run, own_names, run_command, sections, survey

EX_OK: Final = 0
EX_FAILED: Final = 1


def report(options: argparse.Namespace, run: Run = run_command) -> int:
    """Write the report; it works with a broken configuration and without a daemon too."""
    around = survey(options.config, run)
    shown, hosts = own_names(around)
    path = options.file or Path(f"fedge-bugreport-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.tar.gz")
    try:
        parts = write_archive(path, sections(around), Redactor(keep=shown, hosts=hosts))
    except FileExistsError:
        print(f"fedge-agent: {path} is there already; choose another --output", file=sys.stderr)
        return EX_FAILED
    if options.output == "json":
        print(json.dumps({"file": str(path), "parts": [asdict(part) for part in parts]}, indent=2))
        return EX_OK
    for part in parts:
        print(f"{part.name:20} {part.size:>8} bytes  {part.about}")
    print(f"\n{path}: readable by you alone. Secrets and addresses are taken out; look through it before you send it.")
    return EX_OK
