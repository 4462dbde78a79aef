"""The terminal application's own work: text as lines, beside what Rich takes for the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from kheish.tui.blocks import Blocks
from kheish.tui.diff import Diff, unified
from kheish.tui.look import THEMES, Look, look_of
from tests.benchmarks.figures import Figure

REPLY_BYTES, PIECES, WIDTH = 12_000, 400, 100
STREAM_MS_MAX, REDRAW_MS_MAX, WHOLE_MS_MAX, PICTURE_MS_MAX = 1_500, 8, 40, 50
DIFF_LINES, SCREEN_LINES = 39_000, 60
PARAGRAPH = (
    "The daemon **owns** every session; a `client` only [reads](https://example.com/events) what *happens*, and "
    "nothing that it does, or fails to do, stops a run.\n"
)
CODE = "def fold(lines: list[str]) -> int:\n    '''How many.'''\n    return len(lines) + 1  # and one\n\n\n"
SECTION = f"""\
## What changed

{PARAGRAPH * 3}
- one with `code`
- two, which is **bold**
  - nested

1. first
2. second

```python
{CODE * 2}```

| name | count |
|------|------:|
| one  |     2 |

> A quote.

"""


def reply_of(section: str) -> str:
    return (section * (REPLY_BYTES // len(section) + 1))[:REPLY_BYTES]


def cpu_ms(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1000


def look() -> Look:
    theme = THEMES[0]
    return look_of(theme.to_color_system().generate(), is_dark=theme.dark)


def streamed(text: str, draw: Callable[[str], object], pieces: int = PIECES) -> list[float]:
    """CPU of each redraw."""
    parts = [text[: len(text) * (i + 1) // pieces] for i in range(pieces)]
    return [cpu_ms(partial(draw, part)) for part in parts]


def with_rich(text: str) -> None:
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console(width=WIDTH, force_terminal=True, color_system="truecolor")
    list(console.render(Markdown(text)))


def blocks(folder: Path, count: int) -> list[Figure]:
    """A reply of 12 KB in 400 pieces and whole, all in CPU time."""
    found, text = look(), reply_of(SECTION)
    rounds = max(3, count // 40)

    def draw_whole() -> None:
        made = Blocks()
        made.set(text)
        made.lines(WIDTH, found)

    def stream(of: str) -> list[float]:
        made = Blocks()

        def draw(part: str) -> None:
            made.set(part)
            made.lines(WIDTH, found)

        return streamed(of, draw)

    draw_whole()
    with_rich(text)
    whole = [cpu_ms(draw_whole) for _ in range(rounds)]
    rich_whole = [cpu_ms(lambda: with_rich(text)) for _ in range(rounds)]
    streams = [stream(text) for _ in range(rounds)]
    rich_stream = sum(streamed(text, with_rich, PIECES // 20)) * 20
    total = Figure("12 KB in 400 pieces, CPU", "ms", [sum(pieces) for pieces in streams])
    redraws = Figure("redraw of the growing end", "ms", [ms for pieces in streams for ms in pieces])
    one_fence = Figure(
        "redraw of the growing end, all one fence", "ms", stream(f"```python\n{CODE * 200}"[:REPLY_BYTES] + "\n```\n")
    )
    drawn = Figure("12 KB drawn whole", "ms", whole)
    ratio = Figure("", "", rich_whole).median / drawn.median
    return [
        total._replace(
            goal=f"<= {STREAM_MS_MAX}",
            met=total.median <= STREAM_MS_MAX,
            note=f"rich.markdown anew: {rich_stream:.0f}, {rich_stream / total.median:.0f} times",
        ),
        redraws._replace(goal=f"p99 <= {REDRAW_MS_MAX}", met=redraws.percentile(0.99) <= REDRAW_MS_MAX),
        one_fence._replace(goal=f"p99 <= {REDRAW_MS_MAX}", met=one_fence.percentile(0.99) <= REDRAW_MS_MAX),
        drawn._replace(
            goal=f"<= {WHOLE_MS_MAX}", met=drawn.median <= WHOLE_MS_MAX, note=f"rich.markdown: {ratio:.1f} times"
        ),
    ]


def diffs(folder: Path, count: int) -> list[Figure]:
    """The first picture of 2 MB of diff: a file that is new, and one that is changed all over."""
    found, rounds = look(), max(3, count // 40)
    line = "    value_{} = compute({}, 'text')  # comment\n"
    old = "".join(line.format(i, i) for i in range(DIFF_LINES))
    half = old[: len(old) // 2]
    new = "".join(row.replace("compute", "derive") if i % 3 else row for i, row in enumerate(half.splitlines(True)))

    def picture(text: str, split: bool) -> None:
        Diff(text, 160, found, split)[:SCREEN_LINES]

    figures = []
    for name, text in (("new", unified("a.py", None, old)), ("changed", unified("a.py", half, new))):
        for split in (False, True):
            samples = [cpu_ms(partial(picture, text, split)) for _ in range(rounds)]
            title = f"first picture of {len(text) / 1e6:.1f} MB of diff, {name}{', split' * split}"
            figure = Figure(title, "ms", samples, goal=f"<= {PICTURE_MS_MAX}")
            figures.append(figure._replace(met=figure.median <= PICTURE_MS_MAX))
    return figures


SCENES = {"tui.blocks": blocks, "tui.diffs": diffs}
