"""Lives of the scene, one for each point at which the daemon can be killed, and what came of them."""

from __future__ import annotations

import asyncio
import random
import shlex
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from tests.daemon_process import Json
from tests.faults import oracles, scene
from tests.faults.life import LIFE_TIMEOUT_S, Life
from tests.faults.mutants import MUTANTS
from tests.faults.syscalls import KINDS, MOMENTS, TORN, Call, Point, moments_of, read_log
from tests.faults.tables import aligned

MUTANT_TIMEOUT_S = 15.0
"""A broken daemon often leaves the human waiting."""
TRIES = 3
"""How often a point is tried: what depends on a timer is not at the same place in every life."""
OUTCOMES = (
    "nothing to recover",
    "model call again",
    "tool call again",
    "uncertain",
    "given up",
    "tail cut",
    "not reached",
)
MAIN_KINDS = ("write", "fdatasync", "fsync_dir", "rename", "mkdir")
"""What makes records, and the names of what holds them, durable."""
SECOND_CALLS_MAX = 40
"""Each further kill strikes one of so many first calls after the restart, most of them in recovery."""


class Plan(NamedTuple):
    """Where one life is struck: at a point, and perhaps again at a numbered call of each of the next starts."""

    point: Point
    then: tuple[str, ...] = ()

    @property
    def arguments(self) -> list[list[str]]:
        return [["--kill", str(self.point)], *(["--kill-call", call] for call in self.then)]

    def command(self, mutant: str = "") -> str:
        """What repeats this life alone."""
        words = ["python", "-m", "tests.faults", "--point", str(self.point)]
        words += [word for call in self.then for word in ("--then", call)]
        words += ["--mutant", mutant] if mutant else []
        return shlex.join(words)


class Result(NamedTuple):
    plan: Plan
    outcomes: frozenset[str]
    violations: list[str]
    folder: Path
    deaths: int


class Reference(NamedTuple):
    """An undisturbed life: how it ends, and every call at which another one could be struck."""

    summary: Json
    points: list[Point]


def every_point(calls: Iterable[Call]) -> Iterator[Point]:
    for call in calls:
        for moment in moments_of(call.kind):
            yield Point(call.kind, call.name, call.nth, moment)


async def observe_reference(folder: Path, lives: int = 1) -> Reference:
    """Raises AssertionError where an undisturbed life is not in order. More lives find more of the calls whose place
    depends on a timer."""
    summary: Json = {}
    points: dict[Point, None] = {}
    for number in range(lives):
        life = Life(folder / str(number))
        await life.live()
        violations = await asyncio.to_thread(oracles.judge, life, summary or None)
        assert not violations, f"an undisturbed life in {life.folder}: {violations}"
        summary = summary or oracles.summary(life)
        points.update(dict.fromkeys(every_point(read_log(life.log)[0])))
        assert not [
            m for s in scene.SESSIONS for m in life.final[s]["messages"] if m["is_error"] and m["tool"] != "bash"
        ]
    return Reference(summary, list(points))


async def run_life(folder: Path, plan: Plan, expected: Json, mutant: str = "") -> Result:
    """One life; the folder stays where something did not hold."""
    for number in range(1 if mutant else TRIES):
        place = folder / f"try{number}"
        timeout_s = MUTANT_TIMEOUT_S if mutant else LIFE_TIMEOUT_S
        life = Life(place, *plan.arguments, mutant=mutant, timeout_s=timeout_s)
        await life.live()
        violations = await asyncio.to_thread(oracles.judge, life, expected)
        outcomes = _outcomes(life)
        if violations:
            return Result(plan, outcomes, violations, place, life.deaths)
        shutil.rmtree(place)
        if "not reached" not in outcomes:
            break
    return Result(plan, outcomes, [], folder, life.deaths)


def _outcomes(life: Life) -> frozenset[str]:
    """What the deaths of a life led to, as its journals tell."""
    if not life.deaths:
        return frozenset(("not reached",))
    facts = [fact for facts in life.facts.values() for fact in facts]
    types = {fact["type"] for fact in facts}
    found = {
        outcome
        for outcome, type_ in (
            ("model call again", "model_call.died"),
            ("tool call again", "tool_call.died"),
            ("uncertain", "tool_call.became_uncertain"),
        )
        if type_ in types
    }
    if any(scene.is_given_up(facts) for facts in life.facts.values()):
        found.add("given up")
    if any(fact["type"] == "session.recovered" and fact.get("tail_file") for fact in facts):
        found.add("tail cut")
    return frozenset(found or ("nothing to recover",))


async def run_lives(
    folder: Path,
    plans: Sequence[Plan],
    expected: Json,
    *,
    jobs: int,
    mutant: str = "",
    on_result: Callable[[Result, int], None] = lambda result, done: None,
) -> list[Result]:
    """All of these lives, `jobs` at a time."""
    results: list[Result] = []
    waiting = list(enumerate(plans))[::-1]

    async def work() -> None:
        while waiting:
            number, plan = waiting.pop()
            results.append(await run_life(folder / f"{number:04d}", plan, expected, mutant))
            on_result(results[-1], len(results))

    await asyncio.gather(*(work() for _ in range(jobs)))
    return results


async def find_mutant(reference: Reference, folder: Path, name: str, jobs: int) -> str:
    """What reveals a deliberately broken daemon, looked for from the middle of its points on; "" where nothing does."""
    mutant = MUTANTS[name]
    plans = [Plan(point) for point in reference.points if fnmatchcase(str(point), mutant.points)]
    assert plans, f"{name}: the scene comes by no {mutant.points}"
    plans = plans[len(plans) // 2 :] + plans[: len(plans) // 2]
    for at in range(0, len(plans), jobs):
        results = await run_lives(folder / str(at), plans[at : at + jobs], reference.summary, jobs=jobs, mutant=name)
        for violation in [violation for result in results for violation in result.violations]:
            if mutant.shows in violation:
                return violation
    return ""


def sample(points: Sequence[Point], count: int, seed: int) -> list[Point]:
    """At least one of each kind, and of the main ones at each moment, in a session's directory where they come there;
    the rest spread evenly over the scene. The same for the same seed."""
    chooser = random.Random(seed)
    groups: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for point in points:
        groups[point.kind, point.moment if point.kind in MAIN_KINDS else ""].append(point)
    chosen = {
        chooser.choice([point for point in group if point.name.startswith("state/sessions/")] or group)
        for group in groups.values()
    }
    left = [point for point in points if point not in chosen]
    missing = max(0, count - len(chosen))
    offset = chooser.random()
    chosen.update(left[int((number + offset) * len(left) / missing)] for number in range(missing))
    return sorted(chosen, key=points.index)


def second_kills(points: Sequence[Point], count: int, seed: int, kills: int = 2) -> list[Plan]:
    """Lives with two kills or more, spread over the scene."""
    chooser = random.Random(seed)
    plans = []
    for number in range(count):
        point = points[int((number + chooser.random()) * len(points) / count)]
        then = (f"{chooser.randint(1, SECOND_CALLS_MAX)}:{chooser.choice((*MOMENTS, *TORN))}" for _ in range(kills - 1))
        plans.append(Plan(point, tuple(then)))
    return plans


def report(result: Result, mutant: str = "") -> str:
    """What did not hold, and how to see it again."""
    lines = [f"  {violation}" for violation in result.violations]
    return "\n".join([f"{result.plan.command(mutant)}    # left in {result.folder}", *lines])


def matrix(results: Iterable[Result]) -> str:
    """Kind of call and moment, by what the kill led to; a life may count in several columns."""
    table: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for result in results:
        row = table[result.plan.point.kind, result.plan.point.moment]
        row["lives"] += 1
        row["kills"] += result.deaths
        row["VIOLATIONS"] += bool(result.violations)
        row.update(result.outcomes)
    columns: tuple[str, ...] = ("lives", "kills", *OUTCOMES, "VIOLATIONS")
    order = [(kind, moment) for kind in KINDS for moment in moments_of(kind) if (kind, moment) in table]
    total = sum((table[key] for key in order), Counter[str]())
    rows: list[tuple[str, ...]] = [("kind", "moment", *columns)]
    rows += [(*key, *(str(table[key][column]) for column in columns)) for key in order]
    rows += [("all", "", *(str(total[column]) for column in columns))]
    return aligned(rows, texts=2)


def show_progress(total: int, mutant: str = "") -> Callable[[Result, int], None]:
    """Tells a violation at once, and where the sweep is now and then."""

    def show(result: Result, done: int) -> None:
        if result.violations:
            print(report(result, mutant), flush=True)
        if done % 25 == 0 or done == total:
            print(f"{done} of {total} lives", file=sys.stderr, flush=True)

    return show
