"""Ids: in the order in which they were made, and never two the same, however fast they are asked for."""

from __future__ import annotations

import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from kheish.ids import IdSource, is_session_name, new_id, time_of


def test_ids_of_one_moment_differ_before_the_digits_that_a_decision_counts_on() -> None:
    source = IdSource()
    with ThreadPoolExecutor(8) as pool:
        made = [id_ for ids in pool.map(lambda _: [source.new("run") for _ in range(2000)], range(8)) for id_ in ids]
    assert len({id_[:-2] for id_ in made}) == len(made)


def test_ids_differ_there_also_where_chance_draws_almost_the_same_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    low = itertools.count(1_000, -1)
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)
    monkeypatch.setattr(os, "urandom", lambda size: b"".join(next(low).to_bytes(10, "big") for _ in range(size // 10)))
    source = IdSource()
    made = [source.new("run") for _ in range(200)]
    assert made == sorted(made)
    assert len({id_[:-2] for id_ in made}) == len(made)


def test_ids_sort_as_they_were_made() -> None:
    source = IdSource()
    made = [source.new("run") for _ in range(5000)]
    assert made == sorted(made)
    assert {len(id_) for id_ in made} == {len("run_") + 26}


def test_ids_of_different_moments_have_nothing_in_common() -> None:
    source = IdSource()
    made = [source.new("run").removeprefix("run_") for _ in range(5000)]
    assert len({ulid[:10] for ulid in made}) > 1
    assert len({ulid[10:] for ulid in made}) == len(made)


def test_an_id_knows_its_time() -> None:
    before = time.time_ns() // 1_000_000
    made = time_of(new_id("approval"))
    assert made is not None and before <= made <= time.time_ns() // 1_000_000 + 1
    for text in ("", "approval_01KB", "run_" + "u" * 26, "x"):
        assert time_of(text) is None


def test_a_session_name_is_a_safe_directory_name() -> None:
    for name in ("a", "incident-4821", "A.b_c-1", "x" * 128):
        assert is_session_name(name)
    for name in ("", ".", "..", ".x", "-x", "a/b", "a\0", "a b", "é", "x" * 129, "a\n"):
        assert not is_session_name(name)
