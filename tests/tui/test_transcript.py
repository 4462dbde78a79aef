"""The transcript draws what is in sight, and the line that is read stays where it is."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

import pytest
from rich.cells import cell_len
from textual.app import App, ComposeResult
from textual.geometry import Offset
from textual.pilot import Pilot
from textual.selection import Selection

from kheish.tui.lines import without_margin
from kheish.tui.live import Call, Change, Entry, Note, Reply, Said
from kheish.tui.look import THEMES, look_of
from kheish.tui.widgets.transcript import Transcript
from tests.tui.harness import shown as shown_all

LOOK = look_of(THEMES[0].to_color_system().generate(), is_dark=True)


class Page(App[None]):
    CSS = "Transcript { height: 1fr; }"

    def compose(self) -> ComposeResult:
        yield Transcript(LOOK)

    @property
    def transcript(self) -> Transcript:
        return self.query_one(Transcript)


@contextlib.asynccontextmanager
async def page(entries: list[Entry], size: tuple[int, int] = (60, 20)) -> AsyncIterator[tuple[Page, Pilot[None]]]:
    app = Page()
    async with app.run_test(size=size) as pilot:
        app.transcript.show(entries)
        await pilot.pause()
        yield app, pilot


def said(number: int, text: str = "") -> Said:
    return Said(number, number, text or f"input number {number}", "user:0", "cli", "submitted", [])


def reply(number: int, text: str) -> Reply:
    entry = Reply(number, number, f"m{number}")
    entry.text, entry.is_open = text, False
    return entry


def talk(count: int) -> list[Entry]:
    found: list[Entry] = []
    for i in range(count):
        found.append(said(i) if i % 3 == 0 else reply(i, f"Answer **{i}**.\n\n" + "word " * (i % 40)))
    return found


def added(*entries: Entry) -> Change:
    change = Change()
    change.added = list(entries)
    return change


def shown(app: Page) -> str:
    """Without the scrollbar."""
    lines = [line.rstrip("▁▂▃▄▅▆▇█ ") for line in shown_all(app).split("\n")]
    return "\n".join(lines)


async def test_it_shows_the_end_and_follows_what_comes() -> None:
    async with page(talk(500)) as (app, pilot):
        app.transcript.change(added(said(1000, "the newest")))
        await pilot.pause()
        assert "the newest" in shown(app) and app.transcript.is_following


async def test_whoever_scrolls_up_stays_there_and_is_told_what_is_below() -> None:
    async with page(talk(500)) as (app, pilot):
        await pilot.press("pageup")
        await pilot.pause()
        before = shown(app)
        assert not app.transcript.is_following
        app.transcript.change(added(said(1000, "the newest"), said(1001, "more")))
        await pilot.pause()
        assert shown(app) == before and app.transcript.unseen == 2
        app.transcript.follow_end()
        await pilot.pause()
        assert "more" in shown(app) and app.transcript.unseen == 0


async def test_whoever_reads_further_up_is_told_that_the_last_reply_grows() -> None:
    entries = talk(50)
    last = entries[-1] = reply(50, "It begins.\n\n" + "line\n\n" * 40)
    async with page(entries) as (app, pilot):
        app.transcript.scroll_relative(y=-20, animate=False, immediate=True)
        await pilot.pause()
        for entry, unseen in ((entries[3], 0), (last, 1), (last, 1)):
            entry.revision += 1
            change = Change()
            change.changed = [entry]
            app.transcript.change(change)
            assert app.transcript.unseen == unseen
        app.transcript.change(added(said(51)))
        assert app.transcript.unseen == 2


async def test_scrolling_up_passes_every_line_once() -> None:
    """Heights of what was never drawn are guesses; where they are wrong nothing jumps."""
    async with page(talk(120), size=(40, 12)) as (app, _):
        seen: list[str] = []
        for _ in range(2_000):
            seen.append(app.transcript.render_line(0).text)
            if app.transcript.scroll_y <= 0:
                break
            app.transcript.scroll_up(animate=False, immediate=True)
            await asyncio.sleep(0)
        inputs = [line.strip() for line in reversed(seen) if "input number" in line]
        wanted = [f"input number {i}" for i in range(0, 120, 3)]
        found = [line.split("input")[1] for line in inputs]
        assert [f"input{text}".strip() for text in found] == wanted[: len(found)] and len(found) > 30


async def test_the_line_that_is_read_stays_when_the_width_changes() -> None:
    async with page(talk(300), size=(80, 20)) as (app, pilot):
        for _ in range(5):
            await pilot.press("pageup")
            await pilot.pause()
        first = next(i for i in range(300) if f"input number {i}" in shown(app))
        for width in (40, 120, 33, 80):
            await pilot.resize_terminal(width, 20)
            await pilot.pause()
            lines = shown(app)
            assert any(f"input number {i}" in lines or f"{i}." in lines for i in (first - 1, first, first + 1)), width


async def test_an_older_window_in_front_moves_nothing() -> None:
    entries = talk(300)
    async with page(entries[100:]) as (app, pilot):
        await pilot.press("home")
        await pilot.pause()
        before = shown(app)
        app.transcript.replace(entries)
        await pilot.pause()
        assert shown(app) == before
        app.transcript.scroll_up(animate=False)
        await pilot.pause()
        assert app.transcript.scroll_y > 0


async def test_ten_thousand_entries_are_one_widget_of_which_few_are_drawn() -> None:
    async with page(talk(10_000)) as (app, pilot):
        assert len(list(app.screen.walk_children())) < 5
        drawn = [d for d in app.transcript._drawings if d.lines]
        assert 0 < len(drawn) < 60
        await pilot.press("home")
        await pilot.pause()
        assert "input number 0" in shown(app)


async def test_hostile_text_stays_text() -> None:
    nasty = "[red]markup[/] \x1b[31mred\x1b[0m \x1b]0;title\x07 \u202egnp.exe \x9b2J" + "x" * 1_000_000
    call = Call(3, 3, "t", "bash", {"command": nasty})
    call.phase, call.output = "done", nasty
    async with page([said(1, nasty), reply(2, nasty), call, Note(4, 4, nasty, "error")]) as (app, pilot):
        await pilot.press("home")
        await pilot.pause()
        text = shown(app)
        assert "[red]markup[/] red" in text
        assert not any(c in text for c in "\x1b\x07\x9b\u202e")


async def test_wide_and_combining_characters_keep_to_the_width() -> None:
    text = "日本語のテキスト 👩‍👩‍👧‍👦 e\u0301\u0301 שלום עולם " * 40
    call = Call(3, 3, "t", "bash", {"command": text})
    call.phase, call.output = "done", text
    for width in (20, 41, 80):
        async with page([said(1, text), reply(2, text), call, Note(4, 4, text, "dim")], size=(width, 30)) as (app, _):
            for line in shown(app).splitlines():
                assert cell_len(line) <= width


async def test_output_is_folded_until_it_is_asked_for() -> None:
    call = Call(1, 1, "t", "bash", {"command": "seq 30"})
    call.phase, call.output, call.metadata = "done", "\n".join(f"line {i}" for i in range(30)), {"exit_code": 0}
    async with page([call], size=(60, 50)) as (app, pilot):
        assert "line 29" in shown(app) and "line 3\n" not in shown(app) and "ok · 30 lines" in shown(app)
        await pilot.click(Transcript, offset=(5, 0))
        await pilot.pause()
        app.transcript.expand_entry(call)
        await pilot.pause()
        assert "line 3\n" in shown(app)
        app.transcript.expand_entry(call)
        await pilot.pause()
        assert "line 3\n" not in shown(app)


async def test_an_entry_that_grows_is_followed_line_by_line() -> None:
    entry = reply(2, "")
    entry.is_open = True
    async with page([*talk(50), entry], size=(60, 10)) as (app, pilot):
        for i in range(40):
            entry.text += f"paragraph {i}\n\n"
            entry.revision += 1
            change = Change()
            change.changed = [entry]
            app.transcript.change(change)
        await pilot.pause()
        assert "paragraph 39" in shown(app)


async def test_selected_lines_are_copied_as_they_stand() -> None:
    async with page([said(1, "copy me"), reply(2, "and me")], size=(60, 10)) as (app, pilot):
        app.screen.text_select_all()
        await pilot.pause()
        copied = app.screen.get_selected_text() or ""
        assert "copy me" in copied and "and me" in copied


async def test_code_is_copied_without_the_margin_that_it_is_drawn_with() -> None:
    code = "def f(x):\n    return [\n        x,\n    ]"
    async with page([reply(1, f"So:\n\n```python\n{code}\n```")], size=(60, 12)) as (app, pilot):
        lines = shown(app).split("\n")
        top = next(y for y, line in enumerate(lines) if "def f" in line)
        app.screen.selections = {app.transcript: Selection(Offset(0, top), Offset(20, top + 3))}
        await pilot.pause()
        assert (app.screen.get_selected_text() or "").rstrip("\n") == code


@pytest.mark.parametrize(
    ("drawn", "meant"),
    [
        ("  ▌ one\n  ▌   two\n\n  ▌ three", "one\n  two\n\nthree"),
        ("ne\n     two\n       three", "ne\ntwo\n  three"),
        ("   only", "only"),
        ("", ""),
    ],
)
def test_marked_lines_lose_bars_and_margin(drawn: str, meant: str) -> None:
    assert without_margin(drawn, "▌") == meant


async def test_what_is_marked_can_be_seen() -> None:
    async with page([said(1, "mark me"), reply(2, "and **me**")], size=(60, 10)) as (app, pilot):
        before = app.transcript.render_lines(app.transcript.size.region)
        app.screen.text_select_all()
        await pilot.pause()
        marked = app.transcript.render_lines(app.transcript.size.region)
        chosen = app.screen.get_component_rich_style("screen--selection").bgcolor
        for line, was in zip(marked, before, strict=True):
            assert line.text == was.text
            shown_of = [segment for segment in line if segment.text.strip() in ("mark me", "and", "me")]
            assert all(segment.style and segment.style.bgcolor == chosen for segment in shown_of)
        assert sum("me" in line.text for line in marked) == 2


async def test_a_line_says_where_it_is_to_who_marks_it_and_not_to_who_draws_it() -> None:
    """Textual keeps the styles that it drew: with a place in each they would be others for every line of a long day."""
    async with page([said(1, "mark me")], size=(60, 10)) as (app, _):
        view = app.transcript
        drawn = view.render_lines(view.size.region)
        assert not any("offset" in segment.style.meta for line in drawn for segment in line if segment.style)
        region = view.content_region
        y = next(y for y, line in enumerate(drawn) if "mark me" in line.text)
        widget, offset = app.screen.get_widget_and_offset_at(region.x + 4, region.y + y)
        assert widget is view and offset == Offset(4, round(view.scroll_y) + y)


async def test_the_first_line_is_seen_where_one_goes_to_the_start() -> None:
    async with page([said(i) for i in range(100, 200)], size=(20, 10)) as (app, pilot):
        app.transcript.show([said(i, f"number {i}\n" + "a long tail " * 9) for i in range(30)], at="start")
        await pilot.pause()
        assert "number 0" in shown_all(app).split("\n")[0]


async def test_one_goes_from_input_to_input_and_from_the_last_to_the_end() -> None:
    async with page(talk(60)) as (app, pilot):
        transcript = app.transcript

        async def go(by: int) -> int:
            """The number of the input that is the first line then."""
            transcript.go_to_input(by)
            await pilot.pause()
            found = re.match(r"\W+input number (\d+)", shown_all(app).splitlines()[0])
            return int(found[1]) if found else -1

        seen = [await go(-1)]
        while seen[-1] and len(seen) < 60:
            seen.append(await go(-1))
        assert not transcript.is_following
        assert seen == list(range(seen[0], -1, -3)) and seen[0] >= 48, "none is left out"
        assert await go(-1) == 0, "there is none before the first"
        transcript.scroll_to(y=1)
        await pilot.pause()
        assert await go(-1) == 0, "it was not in sight whole any more"
        assert [await go(1) for _ in seen[1:]] == seen[-2::-1]
        for _ in range(20):
            await go(1)
        assert transcript.is_following


async def test_a_long_reply_is_shown_whole_but_drawn_only_where_it_is_seen() -> None:
    words = [f"word{i}" for i in range(8_000)]
    async with page([said(1), reply(2, " ".join(words)), said(3)], size=(60, 20)) as (app, pilot):
        drawings = app.transcript._drawings
        assert sum(len(d.lines) > 0 for d in drawings) <= 3 < len(drawings)
        await pilot.press("home")
        await pilot.pause()
        seen = shown(app).split()
        while "input number 3" not in shown(app):
            y = app.transcript.scroll_y
            app.transcript.scroll_relative(y=20, animate=False, immediate=True)
            lines = [app.transcript.render_line(i).text for i in range(20)]
            seen += " ".join(lines[20 - round(app.transcript.scroll_y - y) :]).split()
        assert [word for word in seen if word.startswith("word")] == words
        assert sum(line.text.count(LOOK.marks.reply) for d in drawings for line in d.lines) <= 1


async def test_of_an_output_that_is_not_all_here_it_is_said_how_long_it_is_and_where_it_is() -> None:
    call = Call(1, 1, "t", "bash", {"command": "yes"})
    call.phase, call.output, call.metadata = "done", "y\n" * 3_000, {"exit_code": 0}
    call.blob, call.output_bytes = "ab" * 32, 20_000_000
    async with page([call], size=(60, 20)) as (app, pilot):
        assert "ok · 20,000,000 bytes" in shown(app)
        app.transcript.expand_all()
        app.transcript.follow_end()
        await pilot.pause()
        end = "".join(shown(app).split())
        assert "1000morelines:`kheishsessionstranscript`" in end and f"blobs/ab/{call.blob}" in end


async def test_an_input_of_one_long_line_is_shown_whole_when_it_is_unfolded() -> None:
    async with page([said(1, "word " * 3_000 + "the end")], size=(60, 20)) as (app, pilot):
        assert "more" in shown(app) and "the\n   end" not in shown(app)
        app.transcript.expand_all()
        app.transcript.follow_end()
        await pilot.pause()
        assert "the\n   end" in shown(app)
