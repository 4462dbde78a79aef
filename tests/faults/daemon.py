"""The real daemon, in a process whose changes to the disk are counted and in which a fault may strike.

    python -m tests.faults.daemon --log FILE [--kill POINT | --kill-call N:MOMENT] [--fail FAILURE ...] [--mutant NAME]
                                  [--clock FILE]

It is what `kheish daemon run` runs, with bounds so small that segments end, checkpoints are written and sessions are
put away within a short scene. What is watched is the folder that holds the state root and the workspace.
"""

from __future__ import annotations

import argparse
import shutil  # noqa: F401 - looks at `os.open` when it is loaded, and must see the original
import sys
import time
from pathlib import Path

from kheish import limits
from tests.faults.syscalls import Failure, Point, Syscalls

SMALL = {
    "SEGMENT_RECORDS_MAX": 7,
    "CHECKPOINT_EVERY_RECORDS": 10,
    "CHECKPOINT_AT_IDLE_RECORDS": 3,
    "JOURNAL_OFFSET_EVERY_RECORDS": 4,
    "INDEX_SAVE_DELAY_MS": 400,
    "SESSION_UNLOAD_AFTER_MS": 100,
    "RETRY_BASE_MS": 20,
    "DISK_LOOK_EVERY_MS": 0,
}


def set_clock(ahead: Path) -> None:
    """The wall clock is ahead of the machine's by the milliseconds in this file, which is read each time."""
    machine_ns = time.time_ns
    time.time_ns = lambda: machine_ns() + int(ahead.read_text()) * 1_000_000


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--kill", type=Point.parse, metavar="KIND:NAME:NTH:MOMENT")
    parser.add_argument("--kill-call", metavar="N:MOMENT")
    parser.add_argument("--fail", type=Failure.parse, action="append", default=[], metavar="'KINDS PATTERN ERRNO'")
    parser.add_argument("--switch", type=Path, help="failures act while this file exists")
    parser.add_argument("--clock", type=Path, help="how far the wall clock is ahead, in milliseconds")
    parser.add_argument("--mutant", default="")
    options = parser.parse_args()
    for name, value in SMALL.items():
        assert hasattr(limits, name), name
        setattr(limits, name, value)

    # What reads a limit when it is loaded is loaded only now.
    from kheish import paths
    from kheish.daemon.main import run_daemon
    from tests.faults.mutants import MUTANTS

    number, _, moment = (options.kill_call or "").partition(":")
    Syscalls(
        paths.state_root().parent,
        options.log,
        point=options.kill,
        number=(int(number), moment) if number else None,
        failures=tuple(options.fail),
        switch=options.switch,
    ).install()
    if options.clock:
        set_clock(options.clock)
    if options.mutant:
        MUTANTS[options.mutant].apply()
    return run_daemon()


if __name__ == "__main__":
    sys.exit(main())
