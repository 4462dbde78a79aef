"""The application under test against a real daemon: keys in, what is shown out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.screen import Screen

from kheish.client import AsyncKheish
from kheish.config import Tui
from kheish.tui.app import KheishApp
from tests.daemon_process import DaemonProcess

PICTURES = Path(__file__).parent / "pictures"
PATIENCE_S = 20.0

Keys = Pilot[int]


@contextlib.asynccontextmanager
async def open_app(
    daemon: DaemonProcess,
    *,
    session_id: str = "",
    size: tuple[int, int] = (80, 24),
    settings: Tui | None = None,
    screen: Screen[Any] | None = None,
) -> AsyncIterator[tuple[KheishApp, Keys]]:
    """The running application, connected; with `screen` pushed on top of the first one. Its files are the daemon's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KHEISH_STATE_ROOT", str(daemon.state))
        patch.setenv("KHEISH_CONFIG_DIR", str(daemon.config))
        async with _run_app(daemon, session_id, size, settings, screen) as running:
            yield running


@contextlib.asynccontextmanager
async def _run_app(
    daemon: DaemonProcess, session_id: str, size: tuple[int, int], settings: Tui | None, screen: Screen[Any] | None
) -> AsyncIterator[tuple[KheishApp, Keys]]:
    client = AsyncKheish(daemon.socket, origin="tui", start=False)
    app = KheishApp(
        client, settings or Tui(reduced_motion=True), session_id=session_id, here=str(daemon.work), start=False
    )
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.link.is_up)
        if screen is not None:
            await app.push_screen(screen)
        await pilot.pause()
        yield app, pilot


async def until(pilot: Keys, condition: Callable[[], object], what: str = "") -> None:
    """Returns when the condition holds; fails, with what is shown, when it takes too long."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await pilot.pause(0.01)
    except TimeoutError:
        raise AssertionError(f"did not come: {what or condition}\n{shown(pilot.app)}") from None


async def write(pilot: Keys, text: str) -> None:
    """Types a text."""
    await pilot.press(*("space" if c == " " else c for c in text))


def shown(app: Any) -> str:
    """The text on the screen, line by line."""
    height = app.size.height
    lines = app.screen._compositor.render_strips()
    return "\n".join(strip.text.rstrip() for strip in lines[:height])


def picture(app: KheishApp) -> str:
    """The screen as SVG, the same for the same screen: without the ids that Rich makes."""
    svg = app.export_screenshot(simplify=True)
    return re.sub(r"terminal-\d+", "terminal", svg)


def check_picture(app: KheishApp, name: str, *hide: tuple[str, str]) -> None:
    """Compares with the picture that is checked in, after `hide` has replaced what differs each time (regular
    expression, replacement). What is drawn otherwise stands beside it as `.new.svg`, to be looked at and, if it is
    right, renamed."""
    if os.getuid() != 0:
        pytest.skip("PICTURES ARE NOT COMPARED: they show the user 0, and this is another")
    found = picture(app)
    for pattern, put in hide:
        found = re.sub(pattern, put, found)
    path, new = PICTURES / f"{name}.svg", PICTURES / f"{name}.new.svg"
    if path.exists() and path.read_text() == found:
        new.unlink(missing_ok=True)
        return
    new.write_text(found)
    raise AssertionError(f"the screen is drawn otherwise than {path.name}: look at {new}")
