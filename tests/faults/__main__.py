"""The full form: the daemon is killed at every change to its disk in the scene, samples of lives are struck twice and
three times, and every state of the disk that a crash may leave is opened by the store.

    python -m tests.faults [--seed N] [--jobs N] [--points A:B] [--twice N] [--thrice N] [--states N] [--write]
    python -m tests.faults --list                                               the points, numbered
    python -m tests.faults --point POINT [--then N:MOMENT ...]                  one life
    python -m tests.faults --mutant NAME                                        with a daemon that is broken on purpose
    python -m tests.faults --mutants                                            is each broken daemon and store found?

Ends with 0 where all that was promised held (with --mutants: where all were found), with 1 where not, after the
command that shows it again. With --write what was found goes into share/doc/kheish/durability.md.
`--states 0` leaves the states out, `--points 0:0 --twice 0 --thrice 0` the lives.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.architecture.modules import REPOSITORY
from tests.faults import crash_states, sweep
from tests.faults.mutants import MUTANTS
from tests.faults.sweep import Plan
from tests.faults.syscalls import Point

REFERENCE_LIVES = 3
EVIDENCE = REPOSITORY / "share" / "doc" / "kheish" / "durability.md"


async def run(options: argparse.Namespace, folder: Path) -> int:
    reference = await sweep.observe_reference(folder / "reference", REFERENCE_LIVES)
    points = reference.points
    if options.list:
        for number, point in enumerate(points):
            print(number, point)
        return 0
    if options.mutants:
        return await find_mutants(reference, folder, options.jobs)
    if options.point:
        plans = [Plan(options.point, tuple(options.then))]
    else:
        start, _, end = options.points.partition(":")
        chosen = points[int(start or 0) : int(end or len(points))]
        plans = [Plan(point) for point in chosen]
        if options.twice:
            plans += sweep.second_kills(chosen, options.twice, options.seed)
        if options.thrice:
            plans += sweep.second_kills(chosen, options.thrice, options.seed, kills=3)
    print(f"{len(points)} points, {len(plans)} lives, {options.jobs} at a time, in {folder}", file=sys.stderr)
    began_s = time.monotonic()
    results = await sweep.run_lives(
        folder,
        plans,
        reference.summary,
        jobs=options.jobs,
        mutant=options.mutant,
        on_result=sweep.show_progress(len(plans), options.mutant),
    )
    found = {"lives": sweep.matrix(results)} if results else {}
    print(*found.values(), flush=True)
    for result in results:
        if "not reached" in result.outcomes:
            print(f"not reached in {sweep.TRIES} lives: {result.plan.point}")
    bad = [result for result in results if result.violations]
    print(f"{len(results)} lives in {time.monotonic() - began_s:.0f} s, {len(bad)} of them broke a promise")
    holds = not bad
    if options.states and not (options.point or options.mutant):
        explored = crash_states.explore_all(options.states, options.seed, options.jobs)
        found["states"] = crash_states.table(explored)
        print(found["states"])
        violations = [f"{name}, {each}" for name, scene in explored.items() for each in scene.violations]
        print("", *violations, sep="\n")
        holds = holds and not violations
    if options.write and holds:
        write_evidence(found)
    return 0 if holds else 1


def write_evidence(tables: dict[str, str]) -> None:
    """Puts what was found between the marks of the document."""
    text = EVIDENCE.read_text("utf-8")
    for name, table in tables.items():
        head, mark, rest = text.partition(f"<!-- {name} -->\n")
        _, end, tail = rest.partition("<!-- end -->")
        assert mark and end, EVIDENCE
        text = f"{head}{mark}\n```\n{table}\n```\n\n{end}{tail}"
    EVIDENCE.write_text(text, "utf-8")


async def find_mutants(reference: sweep.Reference, folder: Path, jobs: int) -> int:
    missed = 0
    for name, mutant in MUTANTS.items():
        found = await sweep.find_mutant(reference, folder / name, name, jobs)
        print(f"{'found ' if found else 'MISSED'}  {name}: {mutant.breaks}\n        {found}", flush=True)
        missed += not found
    missed += crash_states.find_mutants(crash_states.STATES_DEFAULT, 1)
    return 1 if missed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="chooses the lives that are struck again")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--points", default=":", metavar="A:B")
    parser.add_argument("--twice", type=int, default=100, metavar="N", help="how many lives are struck twice")
    parser.add_argument("--thrice", type=int, default=20, metavar="N", help="how many lives are struck three times")
    parser.add_argument(
        "--states",
        type=int,
        default=crash_states.STATES_DEFAULT,
        metavar="N",
        help="crash states a scene at most",
    )
    parser.add_argument("--write", action="store_true", help="write what was found into the document")
    parser.add_argument("--point", type=Point.parse, metavar="KIND:NAME:NTH:MOMENT")
    parser.add_argument(
        "--then", action="append", default=[], metavar="N:MOMENT", help="and at the N-th call of the next start"
    )
    parser.add_argument("--mutant", default="", choices=["", *MUTANTS])
    parser.add_argument("--mutants", action="store_true")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kheish-faults-"))
    status = 1
    try:
        status = asyncio.run(run(options, folder))
    finally:
        if status == 0:
            shutil.rmtree(folder, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
