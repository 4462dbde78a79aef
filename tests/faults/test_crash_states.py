"""The store keeps its promises whatever part of its unsynced writes a crash leaves; a broken store is found."""

from __future__ import annotations

import pytest

from tests.faults.crash_states import MUTANTS, SCENES, broken, explore, record

pytestmark = pytest.mark.slow  # thousands of states

STATES, MUTANT_STATES = 250, 1000


@pytest.mark.parametrize("name", SCENES)
def test_what_was_acknowledged_is_there_in_every_state_that_a_crash_may_leave(name: str) -> None:
    with broken(""):
        scene = SCENES[name]
        explored = explore(scene, record(scene), states=STATES, seed=1)
    assert explored.violations == []
    assert explored.states > STATES // 4 and explored.outcomes["whole"] > 0


@pytest.mark.parametrize("name", MUTANTS)
def test_a_store_that_syncs_too_little_or_repairs_nothing_is_found(name: str) -> None:
    with broken(name):
        scene = SCENES[MUTANTS[name].scene]
        explored = explore(scene, record(scene), states=MUTANT_STATES, seed=1, stop_at=1)
    assert explored.violations


def test_threads_come_in_an_order_that_is_the_same_for_the_same_number_only() -> None:
    with broken(""):
        first, again, another = ([*map(type, record(SCENES["crowd"], order).operations)] for order in (1, 1, 2))
    assert first == again != another
