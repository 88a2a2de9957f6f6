"""Where the program `fedge-agent` begins. The daemon is started without the parser of all the other commands."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_RUN: Final = "run"
_CONFIG: Final = "--config"
_EX_FAILED: Final = 1
_EX_INTERRUPTED: Final = 130


def main() -> int:
    """Run the command of the process's arguments; returns the exit status."""
    words = sys.argv[1:]
    if not is_plain_run(words):
        from fedge_agent import cli  # noqa: PLC0415 - argparse and its tree of commands stay for good

        return cli.main(words)
    from fedge_agent import run_command  # noqa: PLC0415 - only the daemon pays for it
    from fedge_agent.config import DEFAULT_PATH, EX_CONFIG, ConfigError, load  # noqa: PLC0415

    try:
        return run_command.run(load(DEFAULT_PATH if len(words) == 1 else Path(words[1])))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return EX_CONFIG
    except OSError as error:
        sys.stderr.write(f"fedge-agent: {error}\n")
        return _EX_FAILED
    except KeyboardInterrupt:
        return _EX_INTERRUPTED


def is_plain_run(words: Sequence[str]) -> bool:
    """Whether these are `run` or `--config FILE run`, as the unit says it, and nothing that needs a parser."""
    return list(words) == [_RUN] or (len(words) == 3 and words[0] == _CONFIG and words[2] == _RUN)  # noqa: PLR2004


if __name__ == "__main__":
    sys.exit(main())
