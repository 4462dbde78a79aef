"""Settings: in force at once, kept in config.toml beside what a person wrote, never over a file that is broken."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheish.config import Tui, load_config
from kheish.errors import Invalid
from kheish.tui.actions import ACTIONS, Action
from kheish.tui.look import THEMES
from kheish.tui.preferences import is_typed, keep, keymap_of, keys_said, problems_of, taken_by
from kheish.tui.screens.help import Help
from kheish.tui.screens.settings import KeyCapture, Settings
from kheish.tui.widgets.rows import Rows
from tests.daemon_process import DaemonProcess
from tests.tui.harness import Keys, check_picture, open_app, shown, until

pytestmark = pytest.mark.slow

WRITTEN = """\
# mine
[permissions]
deny = ["bash(sudo *)"]  # never

[tui]
theme = "kheish-light"   # the bright one

[tui.keys]
"home.sort" = "o"
"""


@pytest.fixture
def config(shared_daemon: DaemonProcess) -> Iterator[Path]:
    """Its directory, without a file."""
    yield shared_daemon.config
    (shared_daemon.config / "config.toml").unlink(missing_ok=True)


async def go(pilot: Keys, id_: str) -> None:
    """To a line of the settings."""
    pilot.app.screen.query_one(Rows).move_to(id_)
    await until(pilot, lambda: pilot.app.screen.query_one(Rows).cursor == id_)
    await pilot.pause()


async def test_a_switch_is_in_force_at_once_and_kept(shared_daemon: DaemonProcess, config: Path) -> None:
    async with open_app(shared_daemon, screen=Settings(), settings=Tui()) as (app, pilot):
        await go(pilot, "switch:ascii")
        assert app.look.marks.done == "✓"
        await pilot.press("enter")
        await until(pilot, lambda: app.look.marks.done == "+")
        await go(pilot, "notice:completed")
        await pilot.press("space", "space")
        await until(pilot, lambda: app.settings.notices.completed == "terminal")
    assert load_config(config).tui.ascii is True
    assert load_config(config).tui.notices.completed == "terminal"
    assert stat.S_IMODE((config / "config.toml").stat().st_mode) == 0o600


async def test_a_theme_is_tried_on_while_the_cursor_is_on_it_and_taken_with_enter(
    shared_daemon: DaemonProcess, config: Path
) -> None:
    async with open_app(shared_daemon, screen=Settings(), settings=Tui()) as (app, pilot):
        await go(pilot, "theme:kheish-light")
        await until(pilot, lambda: app.theme == "kheish-light")
        await go(pilot, "switch:vim")
        await until(pilot, lambda: app.theme == "kheish-dark")
        await go(pilot, "theme:kheish-contrast")
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, Settings))
        assert app.theme == "kheish-dark" and not (config / "config.toml").exists()
        await pilot.press("f4")
        await until(pilot, lambda: isinstance(app.screen, Settings))
        await go(pilot, "theme:kheish-contrast")
        await pilot.press("enter", "escape")
        await until(pilot, lambda: not isinstance(app.screen, Settings))
        assert app.theme == "kheish-contrast"
    assert load_config(config).tui.theme == "kheish-contrast"


async def test_every_theme_that_is_offered_can_be_tried_on(shared_daemon: DaemonProcess, config: Path) -> None:
    async with open_app(shared_daemon, screen=Settings(), settings=Tui()) as (app, pilot):
        for name in [name for name, theme in app.available_themes.items() if not theme.ansi]:
            await go(pilot, f"theme:{name}")
            await until(pilot, lambda name=name: app.theme == name)  # type: ignore[misc]
            assert name in shown(app) and app.look.text.color is not None


async def test_a_key_is_captured_used_and_given_back(shared_daemon: DaemonProcess, config: Path) -> None:
    """Even one of the application, which does nothing else meanwhile."""
    async with open_app(shared_daemon, screen=Settings(), settings=Tui()) as (app, pilot):
        await capture(pilot, "app.help", "f1", "f9")
        assert not any(isinstance(screen, Help) for screen in app.screen_stack)
        await until(pilot, lambda: app.settings.keys == {"app.help": "f9"})
        await pilot.press("f9")
        await until(pilot, lambda: isinstance(app.screen, Help))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, Settings))
        assert load_config(config).tui.keys == {"app.help": "f9"}
        await go(pilot, "key:app.help")
        await pilot.press("delete")
        await until(pilot, lambda: not app.settings.keys)
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(app.screen, Help))
    assert load_config(config).tui.keys == {}


async def test_a_key_that_is_taken_or_typed_is_refused_with_the_reason(
    shared_daemon: DaemonProcess, config: Path
) -> None:
    async with open_app(shared_daemon, screen=Settings(), settings=Tui()) as (app, pilot):
        await capture(pilot, "home.sort", "n")
        await until(pilot, lambda: "'New' (Home)" in shown(app))
        await pilot.press("ctrl+q")
        await until(pilot, lambda: "'Leave' (Everywhere)" in shown(app))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, Settings))
        await capture(pilot, "app.inbox", "w")
        await until(pilot, lambda: "would be typed" in shown(app))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, Settings))
        assert app.settings.keys == {} and not (config / "config.toml").exists()


async def capture(pilot: Keys, id_: str, *keys: str) -> None:
    await go(pilot, f"key:{id_}")
    await pilot.press("enter")
    await until(pilot, lambda: isinstance(pilot.app.screen, KeyCapture))
    await pilot.press(*keys)


async def test_a_broken_file_is_said_and_left_alone(shared_daemon: DaemonProcess, config: Path) -> None:
    broken = "[tui\ntheme = 1"
    (config / "config.toml").write_text(broken)
    async with open_app(shared_daemon, screen=Settings(), settings=Tui()) as (app, pilot):
        said: list[str] = []
        app.say = lambda error: said.append(error.message)  # type: ignore[method-assign]
        await go(pilot, "switch:vim")
        await pilot.press("enter")
        await until(pilot, lambda: said)
        assert "cannot read" in said[0] and app.settings.vim is False
    assert (config / "config.toml").read_text() == broken


async def test_the_settings_look_as_they_should(shared_daemon: DaemonProcess, config: Path) -> None:
    async with open_app(shared_daemon, screen=Settings(), settings=Tui(keys={"app.help": "f9"})) as (app, pilot):
        await until(pilot, lambda: "Reduced motion" in shown(app))
        check_picture(app, "settings")
        await pilot.press("tab", "tab", "tab")
        await until(pilot, lambda: app.screen.query_one(Rows).cursor == f"key:{ACTIONS[0].id}")
        assert "f9" in shown(app)


# -- the file --------------------------------------------------------------------------------------------------------


def test_what_a_person_wrote_stays_with_its_comments(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(WRITTEN)
    path.chmod(0o640)
    keep(tmp_path, ("theme",), "kheish-dark")
    keep(tmp_path, ("keys", "session.steer"), "ctrl+g")
    keep(tmp_path, ("keys", "home.sort"), None)
    keep(tmp_path, ("notices", "failed"), "bell")
    found = path.read_text()
    assert '# mine\n[permissions]\ndeny = ["bash(sudo *)"]  # never\n' in found and "# the bright one" in found
    tui = load_config(tmp_path).tui
    assert (tui.theme, tui.keys, tui.notices.failed) == ("kheish-dark", {"session.steer": "ctrl+g"}, "bell")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_file_that_is_a_link_stays_one(tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.toml"
    real.write_text(WRITTEN)
    (tmp_path / "config.toml").symlink_to(real)
    keep(tmp_path, ("vim",), True)
    assert (tmp_path / "config.toml").is_symlink() and "vim = true" in real.read_text()


def test_a_setting_that_the_daemon_would_refuse_is_never_written(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[tui]\nthem = "x"\n')
    with pytest.raises(Invalid, match="cannot read"):
        keep(tmp_path, ("vim",), True)
    assert (tmp_path / "config.toml").read_text() == '[tui]\nthem = "x"\n'


def test_what_means_nothing_here_is_warned_of() -> None:
    settings = Tui(theme="none such", keys={"home.fly": "f", "home.sort": "o"})
    assert [problem.partition(": ")[2] for problem in problems_of(settings, ["kheish-dark"])] == [
        "there is no theme 'none such'",
        "there is no action 'home.fly' to bind a key to",
    ]
    assert problems_of(Tui(), ["kheish-dark"]) == []


def action(id_: str) -> Action:
    return next(action for action in ACTIONS if action.id == id_)


@pytest.mark.parametrize(
    ("id_", "key", "keys", "taken"),
    [
        ("home.sort", "n", {}, "home.new"),
        ("home.sort", "n", {"home.new": "w"}, None),
        ("home.sort", "w", {"home.new": "w"}, "home.new"),
        ("home.sort", "s", {}, None),
        ("home.sort", "f", {}, None),
        ("home.sort", "f2", {}, "app.inbox"),
        ("app.inbox", "ctrl+o", {}, "session.editor"),
        ("inbox.open", "d", {}, "list.half_down"),
        ("session.editor", "d", {}, None),
    ],
)
def test_a_key_is_taken_where_both_actions_may_be_valid(
    id_: str, key: str, keys: dict[str, str], taken: str | None
) -> None:
    found = taken_by(action(id_), key, keys)
    assert (found.id if found else None) == taken


def test_readline_keys_give_way_to_a_persons_own() -> None:
    settings = Tui(readline=True, keys={"session.run": "f10"})
    assert keymap_of(settings)["session.run"] == "f10" and keymap_of(settings)["session.aside"] == "f6"
    assert keymap_of(Tui(keys={"session.run": "f10"})) == {"session.run": "f10"}
    (said,) = problems_of(Tui(readline=True, keys={"session.plan": "f6"}, theme=THEMES[0].name), [THEMES[0].name])
    assert "f6 is a key of 'session.plan' and of 'session.aside'" in said
    assert problems_of(Tui(readline=True, theme=THEMES[0].name), [THEMES[0].name]) == []


def test_keys_are_said_as_they_are_bound_now() -> None:
    assert keys_said("session.steer", Tui()) == ["Ctrl+Enter", "Ctrl+S"]
    assert keys_said("session.queue_focus", Tui(readline=True)) == ["F9"]
    assert keys_said("home.filter", Tui()) == ["/"]
    assert keys_said("home.new", Tui(keys={"home.new": "w, right_square_bracket"})) == ["w", "]"]


def test_a_letter_is_no_key_where_one_writes() -> None:
    assert is_typed(action("session.editor"), "e") and is_typed(action("app.help"), "h")
    assert not is_typed(action("session.editor"), None) and not is_typed(action("home.sort"), "e")
    assert not is_typed(action("app.help"), "\x01")


def test_it_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(WRITTEN)
    before = path.stat().st_ino
    keep(tmp_path, ("vim",), True)
    assert path.stat().st_ino != before, "a new file takes its place"
    assert os.listdir(tmp_path) == ["config.toml"]
