"""The short form of the sweep: wherever a SIGKILL strikes, the scene ends the same. `python -m tests.faults` is the
full form."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults import sweep
from tests.faults.mutants import MUTANTS
from tests.faults.sweep import Plan, Reference
from tests.faults.syscalls import moments_of

pytestmark = pytest.mark.slow

SEED = 1
JOBS = min(4, os.cpu_count() or 1)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """How the scene ends undisturbed, and the points at which it can be struck."""
    return asyncio.run(sweep.observe_reference(tmp_path_factory.mktemp("f")))


def lives(reference: Reference, folder: Path, plans: Sequence[Plan]) -> list[sweep.Result]:
    return asyncio.run(sweep.run_lives(folder, plans, reference.summary, jobs=JOBS))


def assert_kept(results: Sequence[sweep.Result]) -> None:
    bad = [sweep.report(result) for result in results if result.violations]
    assert not bad, "\n".join(["", *bad])


def test_the_scene_comes_by_everything_that_the_store_does(reference: Reference) -> None:
    names = {point.name for point in reference.points}
    for wanted in (
        "state/daemon/generation.json",
        "state/daemon/index.jsonl",
        "state/daemon/permissions.json",
        "state/sessions/work",
        "state/sessions/work/journal-000000000001.jsonl",
        "state/sessions/work/journal-000000000022.jsonl",
        "state/sessions/side/journal-000000000008.jsonl",
    ):
        assert wanted in names, wanted
    renamed = [point.name for point in reference.points if point.kind == "rename" and point.moment == "before"]
    assert sum("checkpoint-" in name for name in renamed) >= 3
    assert sum("blobs/" in name for name in renamed) == 2
    assert any(point.kind == "unlink" and "checkpoint-" in point.name for point in reference.points)


def test_killed_at_any_kind_of_call_and_moment_the_scene_ends_the_same(reference: Reference, short_path: Path) -> None:
    points = sweep.sample(reference.points, 18, SEED)
    assert {(point.kind, point.moment) for point in points} >= {
        (kind, moment) for kind in sweep.MAIN_KINDS for moment in moments_of(kind)
    }
    assert {point.kind for point in points} == {point.kind for point in reference.points}
    results = lives(reference, short_path, [Plan(point) for point in points])
    assert_kept(results)
    assert sum("not reached" not in result.outcomes for result in results) >= len(results) - 2


def test_killed_again_while_it_recovers_the_scene_ends_the_same(reference: Reference, short_path: Path) -> None:
    results = lives(reference, short_path, sweep.second_kills(reference.points, 3, SEED))
    assert_kept(results)
    assert sum(result.deaths for result in results) > len(results)


@pytest.mark.parametrize("name", ["append_after_torn_tail", "open_gate_early", "skip_dir_sync"])
def test_a_broken_daemon_is_found(reference: Reference, short_path: Path, name: str) -> None:
    assert asyncio.run(sweep.find_mutant(reference, short_path, name, JOBS)), MUTANTS[name].breaks
