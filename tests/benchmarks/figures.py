"""Samples and how they are shown: median, spread, and the ratio to a baseline of the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple


class Figure(NamedTuple):
    """One line of the report. `goal` is a text for people; `met` is None where there is none."""

    name: str
    unit: str
    samples: list[float]
    note: str = ""
    goal: str = ""
    met: bool | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def percentile(self, share: float) -> float:
        ordered = sorted(self.samples)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "unit": self.unit,
            "count": len(self.samples),
            "min": min(self.samples),
            "median": self.median,
            "p99": self.percentile(0.99),
            "max": max(self.samples),
            "note": self.note,
            "goal": self.goal,
            "met": self.met,
        }


def sample_ms(work: Callable[[], object], count: int, *, warmup: int = 2) -> list[float]:
    """Milliseconds of each of `count` calls, after a few that do not count."""
    for _ in range(warmup):
        work()
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        work()
        taken.append((time.perf_counter() - began) * 1000)
    return taken


def show(figures: Iterable[Figure]) -> str:
    """An aligned table."""
    rows = [("figure", "n", "min", "median", "p99", "max", "unit", "goal", "")]
    for f in figures:
        mark = {True: "ok", False: "MISSED", None: ""}[f.met]
        single = len(f.samples) == 1
        rows.append(
            (
                f.name,
                str(len(f.samples)),
                "" if single else _text(min(f.samples)),
                _text(f.median),
                "" if single else _text(f.percentile(0.99)),
                "" if single else _text(max(f.samples)),
                f.unit,
                f.goal,
                " ".join(part for part in (mark, f.note) if part),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(w) if i in (0, 6, 7, 8) else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _text(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
