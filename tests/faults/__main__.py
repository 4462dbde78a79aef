"""The full form of the evidence, in four parts: `lives`, in which the daemon is killed at every change to its disk in
the scene, some of them again while it recovers; `states`, every state of the disk that a crash may leave, opened by the
store; `races` of two daemons; `others`, the tests of whatever else may happen.

    python -m tests.faults [--part PART ...] [--seed N] [--jobs N] [--write]
                           [--points A:B] [--twice N] [--thrice N] [--states N] [--orders N] [--races N]
    python -m tests.faults --list                                               the points, numbered
    python -m tests.faults --point POINT [--then N:MOMENT ...]                  one life
    python -m tests.faults --mutant NAME                                        with a daemon that is broken on purpose
    python -m tests.faults --mutants                                            is each broken daemon and store found?

Ends with 0 where all that was promised held (with --mutants: where all were found), with 1 where not, after the
command that shows it again. With --write what was found goes into share/doc/kheish/durability.md.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.architecture.modules import REPOSITORY
from tests.faults import crash_states, others, sweep
from tests.faults.mutants import MUTANTS
from tests.faults.races import races_on_several_roots
from tests.faults.sweep import Plan
from tests.faults.syscalls import Point

REFERENCE_LIVES = 3
EVIDENCE = REPOSITORY / "share" / "doc" / "kheish" / "durability.md"


def run(options: argparse.Namespace, folder: Path) -> int:
    if options.list or options.mutants:
        return asyncio.run(list_points(folder) if options.list else find_mutants(folder, options.jobs))
    is_of_lives = options.point or options.mutant
    parts = ["lives"] if is_of_lives else options.part or [*PARTS]
    tables, violations = {}, []
    for part in parts:
        tables[part], found = PARTS[part](options, folder)
        print(tables[part], *found, sep="\n", flush=True)
        violations += found
    if options.write and not violations and not is_of_lives:
        write_evidence(tables)
    return 1 if violations else 0


Found = tuple[str, list[str]]
"""A table for the document, and what broke a promise."""


def live(options: argparse.Namespace, folder: Path) -> Found:
    return asyncio.run(_live(options, folder))


async def _live(options: argparse.Namespace, folder: Path) -> Found:
    reference = await sweep.observe_reference(folder / "reference", REFERENCE_LIVES)
    points = reference.points
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
    for result in results:
        if "not reached" in result.outcomes:
            print(f"not reached in {sweep.TRIES} lives: {result.plan.point}")
    bad = [sweep.report(result, options.mutant) for result in results if result.violations]
    print(f"{len(results)} lives in {time.monotonic() - began_s:.0f} s, {len(bad)} of them broke a promise")
    return sweep.matrix(results), bad


def explore(options: argparse.Namespace, folder: Path) -> Found:
    explored = crash_states.explore_all(options.states, options.seed, options.jobs, options.orders)
    violations = [f"{name}, {each}" for name, scene in explored.items() for each in scene.violations]
    return crash_states.table(explored), violations


def race(options: argparse.Namespace, folder: Path) -> Found:
    found = races_on_several_roots(folder, options.races, options.jobs)
    return f"{options.races} races of two daemons for a state root: {len(found)} VIOLATIONS", found


def test(options: argparse.Namespace, folder: Path) -> Found:
    return others.run()


PARTS: dict[str, Callable[[argparse.Namespace, Path], Found]] = {
    "lives": live,
    "states": explore,
    "races": race,
    "others": test,
}


def write_evidence(tables: dict[str, str]) -> None:
    """Puts what was found between the marks of the document."""
    text = EVIDENCE.read_text("utf-8")
    for name, table in tables.items():
        head, mark, rest = text.partition(f"<!-- {name} -->\n")
        _, end, tail = rest.partition("<!-- end -->")
        assert mark and end, EVIDENCE
        text = f"{head}{mark}\n```\n{table}\n```\n\n{end}{tail}"
    EVIDENCE.write_text(text, "utf-8")


async def list_points(folder: Path) -> int:
    for number, point in enumerate((await sweep.observe_reference(folder, REFERENCE_LIVES)).points):
        print(number, point)
    return 0


async def find_mutants(folder: Path, jobs: int) -> int:
    reference = await sweep.observe_reference(folder / "reference", REFERENCE_LIVES)
    missed = 0
    for name, mutant in MUTANTS.items():
        found = await sweep.find_mutant(reference, folder / name, name, jobs)
        print(f"{'found ' if found else 'MISSED'}  {name}: {mutant.breaks}\n        {found}", flush=True)
        missed += not found
    missed += crash_states.find_mutants(crash_states.STATES_DEFAULT, 1)
    return 1 if missed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="The full form of the evidence.")
    parser.add_argument("--seed", type=int, default=1, help="chooses the lives that are struck again")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--part", action="append", choices=PARTS, help="only this one; may be given again")
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
    parser.add_argument(
        "--orders", type=int, default=20, metavar="N", help="orders in which the threads of a scene come"
    )
    parser.add_argument("--races", type=int, default=1000, metavar="N", help="races of two daemons")
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
        status = run(options, folder)
    finally:
        if status == 0:
            shutil.rmtree(folder, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
