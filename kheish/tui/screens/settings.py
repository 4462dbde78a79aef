"""What a person may choose: switches, notifications, the theme, tried on as one moves, and every key. It is kept in
config.toml and in force at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from textual import events
from textual.app import ComposeResult
from textual.screen import ModalScreen
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Static

from kheish import paths
from kheish.config import Notice, Tui
from kheish.errors import KheishError
from kheish.tui.actions import ACTIONS, Action, bindings
from kheish.tui.lines import cut_columns, strip_of
from kheish.tui.look import Look
from kheish.tui.preferences import is_typed, keep, keymap_of, keys_of, taken_by
from kheish.tui.screen import KheishScreen
from kheish.tui.screens.aside import Aside
from kheish.tui.screens.help import PLACES
from kheish.tui.widgets.rows import Item, Rows

SWITCHES = {
    "vim": ("Vim keys", "Modes of vi in the composer"),
    "readline": ("Readline keys", "A shell's Ctrl+B, D, E, U; F6-F9 in their place"),
    "ascii": ("ASCII only", "No characters beyond ASCII in marks and lines"),
    "reduced_motion": ("Reduced motion", "Nothing moves or blinks"),
    "mouse": ("Mouse", "Off, the terminal selects text itself"),
    "confirm_leaving": ("Ask before leaving", "Leaving stops nothing either way"),
}
TOLD = {
    "approval": ("Approval", "When a call waits for an approval"),
    "question": ("Question", "When a model asks you something"),
    "failed": ("Failed", "When a run fails"),
    "completed": ("Completed", "When a run is completed"),
    "title": ("Title", "The title of the terminal counts what waits"),
}
PARTS = ("switch", "notice", "theme", "key")
TITLE_WIDTH = 20


class Settings(Aside):
    CSS = """
    Settings Rows { height: 1fr; padding: 0 1; }
    """
    BINDINGS = bindings("settings")

    def body(self) -> Iterable[Widget]:
        yield Rows()

    def on_mount(self) -> None:
        self.query_one(Rows).focus()

    @property
    def settings(self) -> Tui:
        return self.kheish.settings

    def draw(self) -> None:
        look = self.look
        self.head.show(look, "Settings", "in force at once, kept in config.toml")
        self.query_one(Rows).set(items_of(self.settings, self._themes, look))

    @property
    def _themes(self) -> list[str]:
        """The application's own first. Not those that take the terminal's colours, which nobody knows here."""
        names = [name for name, theme in self.kheish.available_themes.items() if not theme.ansi]
        return sorted(names, key=lambda name: (not name.startswith("kheish"), name))

    @property
    def _chosen(self) -> tuple[str, str]:
        """(part, name)"""
        part, _, name = self.query_one(Rows).cursor.partition(":")
        return part, name

    def on_rows_highlighted(self) -> None:
        """A theme is tried on while the cursor is on it."""
        part, name = self._chosen
        self.kheish.theme = name if part == "theme" else self._theme
        self.refresh_bindings()

    @property
    def _theme(self) -> str:
        """The one that is set, where it exists."""
        return self.settings.theme if self.settings.theme in self.kheish.available_themes else self._themes[0]

    def on_rows_chosen(self, message: Rows.Chosen) -> None:
        self.action_change()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "reset":
            part, name = self._chosen
            return part == "key" and name in self.settings.keys
        return True

    def action_close(self) -> None:
        self.kheish.theme = self._theme
        self.dismiss()

    def action_part(self) -> None:
        """To the first line of the next part."""
        rows, part = self.query_one(Rows), self._chosen[0]
        following = PARTS[(PARTS.index(part) + 1) % len(PARTS)]
        first = next(item.id for item in items_of(self.settings, self._themes, self.look)
                     if item.id.startswith(f"{following}:"))  # fmt: skip
        rows.move_to(first)

    def action_change(self) -> None:
        match self._chosen:
            case "theme", name:
                if self._keep(("theme",), name):
                    self.settings.theme = name
            case "switch", name:
                value = not getattr(self.settings, name)
                if self._keep((name,), value):
                    setattr(self.settings, name, value)
                    self._apply(name, value)
            case "notice", name:
                following = _after(getattr(self.settings.notices, name))
                if self._keep(("notices", name), following):
                    setattr(self.settings.notices, name, following)
            case "key", name:
                action = next(action for action in ACTIONS if action.id == name)
                self.kheish.push_screen(KeyCapture(action, keymap_of(self.settings)), lambda key: self._bind(name, key))
        self.draw()

    def action_reset(self) -> None:
        self._bind(self._chosen[1], "")

    def _bind(self, id_: str, key: str | None) -> None:
        """`key` is empty for the default; None where the person thought better of it."""
        if key is None or not self._keep(("keys", id_), key or None):
            return
        self.settings.keys.pop(id_, None)
        if key:
            self.settings.keys[id_] = key
        self.kheish.set_keymap(keymap_of(self.settings))
        self.draw()

    def _keep(self, place: tuple[str, ...], value: str | bool | None) -> bool:
        try:
            keep(paths.config_dir(), place, value)
        except KheishError as error:
            self.kheish.say(error)
            return False
        return True

    def _apply(self, name: str, value: bool) -> None:
        if name == "reduced_motion":
            self.kheish.animation_level = "none" if value else "full"
        elif name == "readline":
            self.kheish.set_keymap(keymap_of(self.settings))
        elif name == "mouse":
            set_mouse(self.kheish._driver, is_on=value)
        elif name == "ascii":
            for screen in self.kheish.screen_stack:
                if isinstance(screen, KheishScreen):
                    screen.look_changed()


def _after(value: str | bool) -> str | bool:
    """The next choice."""
    if isinstance(value, bool):
        return not value
    kinds = get_args(Notice)
    return str(kinds[(kinds.index(value) + 1) % len(kinds)])


def set_mouse(driver: object, *, is_on: bool) -> None:
    """Textual chooses it once, at its start; its drivers can do it at any time."""
    if hasattr(driver, "_enable_mouse_support"):
        driver._disable_mouse_support()  # type: ignore[attr-defined]
        driver._mouse = is_on  # type: ignore[attr-defined]
        driver._enable_mouse_support()


def items_of(settings: Tui, themes: Iterable[str], look: Look) -> list[Item]:
    found = [_heading("Behaviour", look)]
    for name, (title, about) in SWITCHES.items():
        found.append(_item(f"switch:{name}", "[x]" if getattr(settings, name) else "[ ]", title, about, look))
    found += [_heading(""), _heading("Notifications, while the terminal is not looked at", look)]
    for name, (title, about) in TOLD.items():
        value = getattr(settings.notices, name)
        word = value if isinstance(value, str) else "on" if value else "off"
        found.append(_item(f"notice:{name}", f"{word:<9}", title, about, look))
    found += [_heading(""), _heading("Theme", look)]
    for name in themes:
        mark = look.marks.running if name == settings.theme else look.marks.queued
        found.append(_item(f"theme:{name}", mark, name, "", look))
    where = ""
    for action in ACTIONS:
        if action.where != where:
            where = action.where
            found += [_heading(""), _heading(f"Keys: {PLACES.get(where, where)}", look)]
        keys = cut_columns(", ".join(keys_of(action, keymap_of(settings))), 20)
        changed = look.marks.running if action.id in settings.keys else " "
        found.append(_item(f"key:{action.id}", f"{changed} {keys:<20}", action.title, action.help, look))
    return found


def _heading(text: str, look: Look | None = None) -> Item:
    return Item("", lambda _: strip_of((text, look.heading if look else None)))


def _item(id_: str, value: str, title: str, about: str, look: Look) -> Item:
    def draw(width: int) -> Strip:
        room = max(0, width - len(value) - TITLE_WIDTH - 4)
        return strip_of(
            (f"  {value}  ", look.accent), (f"{title:<{TITLE_WIDTH}}", look.text),
            (cut_columns(about, room, look.marks.ellipsis), look.dim),
        )  # fmt: skip

    return Item(id_, draw)


class KeyCapture(ModalScreen[str | None]):
    """Takes the next key that is pressed for an action; Escape leaves it as it is."""

    CSS = """
    KeyCapture { align: center middle; background: $background 60%; }
    KeyCapture Static { width: 60; max-width: 90%; height: auto; padding: 1 2; background: $panel; }
    """

    def __init__(self, action: Action, keys: dict[str, str]) -> None:
        super().__init__()
        self._action = action
        self._keys = keys

    @property
    def _binding_chain(self) -> list[object]:  # type: ignore[override]
        """No key does anything else while one is asked for, not even those of the application."""
        return []

    def compose(self) -> ComposeResult:
        yield Static(f"Press the new key for {self._action.title!r}\nEscape leaves it as it is", markup=False)

    def on_key(self, event: events.Key) -> None:
        event.stop()
        event.prevent_default()
        if event.key == "escape":
            self.dismiss(None)
            return
        other = taken_by(self._action, event.key, self._keys)
        if is_typed(self._action, event.character):
            self._refuse(f"{event.key} would be typed there")
        elif other is not None:
            self._refuse(f"{event.key} is the key of {other.title!r} ({PLACES.get(other.where, other.where)})")
        else:
            self.dismiss(event.key)

    def _refuse(self, why: str) -> None:
        self.query_one(Static).update(f"{why}\nPress another one; Escape leaves it as it is")
