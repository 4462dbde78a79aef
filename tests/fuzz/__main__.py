"""Fuzzes the API of a daemon of its own for a while.

    python -m tests.fuzz [--seconds N | --examples N] [--seed N] [--codes]

Prints each finding with the request that shows it, and what was asked and answered by operation. Ends with 0 where
there is no finding, with 1 where there is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

SETTINGS = """\
max-stream-events = 1000000000  # wire.py says where a stream ends
[phases.coverage]
generate-duplicate-query-parameters = true
"""


def fuzz(folder: Path, bound: str, seed: int, codes: bool) -> int:
    from schemathesis.cli import schemathesis

    from tests.fuzz import wire
    from tests.fuzz.judge import Judge
    from tests.fuzz.world import World

    world = World(folder, seed)
    try:
        world.start()
        wire.use_socket(world.daemon)
        judge = Judge(world)
        (folder / "openapi.json").write_text(json.dumps(world.ask("GET", "/v1/openapi.json")))
        (folder / "schemathesis.toml").write_text(SETTINGS)
        os.chdir(folder)
        status = run(
            schemathesis,
            "run", "openapi.json", "--url=http://kheish", f"--seed={seed}", bound,
            "--checks=all", "--exclude-checks=positive_data_acceptance,ignored_auth,object_level_authorization",
            "--continue-on-failure", "--request-timeout=20", "--no-color", "--generation-database=none",
            "--suppress-health-check=all", "--warnings=off",
        )  # fmt: skip
        print(judge.report())
        if codes:
            for operation, counter in sorted(judge.codes.items()):
                print(operation, dict(counter.most_common()))
        left = world.daemon.stop()
        log = (world.daemon.state / "daemon" / "daemon.log").read_text()
        if left or "Traceback" in log:
            print(f"the daemon left with status {left}; its log:", log[max(0, log.find("Traceback") - 500) :][:4000])
            status = 1
    finally:
        world.daemon.close()
    print(f"seed {seed}, {bound}: {'nothing found' if status == 0 else 'see above; curl takes --unix-socket'}")
    return 1 if status else 0


def run(command: object, *arguments: str) -> int:
    """The exit status of the command line of schemathesis."""
    try:
        command.main(arguments, standalone_mode=False)  # type: ignore[attr-defined]
    except SystemExit as leave:
        return int(leave.code or 0)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=300, help="go on for so long")
    parser.add_argument("--examples", type=int, help="one round, of so many inventions for each operation")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--codes", action="store_true", help="also the codes of the problems, by operation")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="kheish-fuzz-") as folder:
        bound = f"--max-examples={options.examples}" if options.examples else f"--max-time={options.seconds}"
        return fuzz(Path(folder), bound, options.seed, options.codes)


if __name__ == "__main__":
    sys.exit(main())
