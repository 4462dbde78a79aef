"""The store keeps its promises whatever part of its unsynced writes a crash leaves; a broken store is found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.crash_states import MUTANTS, SCENES, broken, explore, memory

pytestmark = pytest.mark.slow  # thousands of states

STATES, MUTANT_STATES = 250, 1000


@pytest.fixture
def folder() -> Iterator[Path]:
    with memory() as made:
        yield made


@pytest.mark.parametrize("scene", SCENES)
def test_what_was_acknowledged_is_there_in_every_state_that_a_crash_may_leave(scene: str, folder: Path) -> None:
    with broken(""):
        explored = explore(scene, folder, states=STATES, seed=1)
    assert explored.violations == []
    assert explored.states > STATES // 4 and explored.outcomes["whole"] > 0


@pytest.mark.parametrize("name", MUTANTS)
def test_a_store_that_syncs_too_little_or_repairs_nothing_is_found(name: str, folder: Path) -> None:
    with broken(name):
        explored = explore(MUTANTS[name].scene, folder, states=MUTANT_STATES, seed=1, stop_at=1)
    assert explored.violations
