"""Which of many names is meant by a few letters."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nlargest
from itertools import islice


def score(query: str, name: str) -> float:
    """0 where the letters are not all in the name, in their order. Best is the last part of a path, then what stands
    there together, at the beginning of a word before elsewhere; then letters that begin words, or follow each other, or
    are in the last part. Of equals the shorter name is better."""
    letters, lowered = query.lower(), name.lower()
    if not letters.endswith("/"):
        lowered = lowered.rstrip("/")
    part = lowered.rfind("/") + 1
    if letters in lowered:
        at = lowered.rfind(letters)
        starts = max(lowered.rfind(before + letters) for before in "/_-. ") >= 0 or lowered.startswith(letters)
        is_whole = f"/{lowered}".endswith(f"/{letters}")
        leads = 100 * (at >= part) + 100 * lowered.startswith(letters, part)
        return 1_000 * is_whole + 400 + 200 * starts + leads + 1 / (1 + len(name))
    points, at, following = 1.0, len(lowered), -1
    for letter in reversed(letters):
        at = lowered.rfind(letter, 0, at)
        if at < 0:
            return 0.0
        points += (at + 1 == following) + 2 * (at == 0 or not lowered[at - 1].isalnum()) + (at >= part)
        following = at
    return min(points, 399.0) + 1 / (1 + len(name))


def best(query: str, names: Iterable[str], count: int) -> list[str]:
    """The names that match, best first; all of them, in their order, where there is no query."""
    if not query:
        return list(islice(names, count))
    scored = ((score(query, name), name) for name in names)
    return [name for points, name in nlargest(count, scored, key=lambda pair: pair[0]) if points]
