"""Addresses in the transcript: a click opens the one that it is on, and no other."""

from __future__ import annotations

import pytest

from kheish.tui.app import KheishApp
from kheish.tui.links import open_command, url_at
from kheish.tui.screens.session import Session
from kheish.tui.widgets.transcript import Transcript
from tests.daemon_process import DaemonProcess, bash, text
from tests.tui.harness import Keys, open_app, shown, until

TEXT = "See (https://example.com/a_b?x=1), https://example.com/other and [it](https://example.org/long/way)."
LINE = "See (https://example.com/a_b?x=1), https://example.com/other and"


@pytest.mark.parametrize(
    ("line", "shown_at", "is_link", "url"),
    [
        (LINE, "a_b", False, "https://example.com/a_b?x=1"),
        (LINE, "https://example.com/o", False, "https://example.com/other"),
        (LINE, "See", False, ""),
        (LINE, " and", True, ""),
        ("it (https://example.org/lo", "example", False, "https://example.org/long/way"),
        ("ng/way).", "way", True, "https://example.org/long/way"),
        ("ng/way).", "way", False, ""),
        ("example", "example", True, ""),
        ("https://evil.example", "evil", True, ""),
    ],
    ids=["in brackets", "bare", "a word", "a blank", "its beginning", "its end", "no link", "of several", "of none"],
)
def test_a_click_is_on_an_address_that_the_text_has(line: str, shown_at: str, is_link: bool, url: str) -> None:
    assert url_at(line, line.index(shown_at), TEXT, is_link=is_link) == url


def test_an_address_is_opened_where_there_is_a_desktop() -> None:
    url, here = "https://example.com", {"DISPLAY": ":0"}
    assert open_command(url, here, "linux", lambda name: f"/bin/{name}") == ["xdg-open", url]
    assert open_command(url, {}, "darwin", lambda _: None) == ["open", url]
    assert open_command(url, here, "linux", lambda _: None) == []
    assert open_command(url, {}, "linux", lambda name: name) == []
    assert open_command(url, {**here, "SSH_CONNECTION": "1 2 3 4"}, "darwin", lambda name: name) == []


async def click(app: KheishApp, pilot: Keys, words: str) -> None:
    """On the first letter of these words in the transcript."""
    lines = shown(app).splitlines()
    row = next(i for i, line in enumerate(lines) if words in line)
    transcript = app.screen.query_one(Transcript)
    where = lines[row].index(words) - transcript.region.x, row - transcript.region.y
    assert await pilot.click(Transcript, offset=where)


@pytest.mark.slow
async def test_a_click_copies_the_address_that_it_is_on_where_there_is_no_desktop(
    shared_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    session = shared_daemon.session("links", mode="bypass")
    long = "https://example.org/" + "way/" * 30 + "end"
    model = shared_daemon.script(
        bash("echo serving at http://127.0.0.1:8080/x now"), text(f"Read [the page]({long}) first."), name="links"
    )
    shared_daemon.finish(shared_daemon.submit(session, "serve", model=model))
    async with open_app(shared_daemon, session_id=session) as (app, pilot):
        await until(pilot, lambda: isinstance(app.screen, Session) and "the page" in shown(app))
        await click(app, pilot, "8080/x")
        await until(pilot, lambda: app.clipboard == "http://127.0.0.1:8080/x")
        await click(app, pilot, "way/end)")
        await until(pilot, lambda: app.clipboard == long)
        app.copy_to_clipboard("")
        await click(app, pilot, "first.")
        await pilot.pause()
        assert app.clipboard == ""
