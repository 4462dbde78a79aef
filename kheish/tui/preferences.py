"""What a person sets in the application, kept in `config.toml`: comments and order stay, and a file that cannot be read
is left as it is."""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Iterable
from pathlib import Path

import msgspec
from textual.keys import KEY_NAME_REPLACEMENTS, Keys, format_key, key_to_character

from kheish.config import FILE_NAME, Config, Tui, load_config
from kheish.errors import Invalid
from kheish.tui.actions import ACTIONS, Action

READLINE = {"session.aside": "f6", "session.run": "f7", "session.expand": "f8", "session.queue_focus": "f9"}
"""Where the place to write has Ctrl+B, D, E and U as a shell's line has them, their actions are on other keys."""


def keymap_of(settings: Tui) -> dict[str, str]:
    """The keys that are others than those of the table."""
    return {**READLINE, **settings.keys} if settings.readline else dict(settings.keys)


def keep(directory: Path, place: tuple[str, ...], value: str | bool | None) -> None:
    """Sets a key below `[tui]`; None takes it out, so that the default holds. Raises Invalid."""
    import tomlkit
    from tomlkit.items import AbstractTable

    from kheish.store.atomic import make_private_dir, replace_file

    load_config(directory)
    # Where the file is a link to one that is kept elsewhere, that one is written.
    path = (directory / FILE_NAME).resolve()
    try:
        text, mode = path.read_text("utf-8"), stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        text, mode = "", 0o600
    document = tomlkit.parse(text)
    table: AbstractTable | tomlkit.TOMLDocument = document
    for name in ("tui", *place[:-1]):
        if name not in table:
            table[name] = tomlkit.table()
        table = table[name]
    if value is None:
        table.pop(place[-1], None)
    else:
        table[place[-1]] = value
    found = tomlkit.dumps(document)
    msgspec.convert(tomllib.loads(found), Config)
    try:
        make_private_dir(path.parent)
        replace_file(path, found.encode(), mode)
    except OSError as error:
        raise Invalid(f"cannot write {path}: {error.strerror}", code="invalid_config", path=str(path)) from error


def problems_of(settings: Tui, themes: Iterable[str]) -> list[str]:
    """What is set and means nothing here, in words: it is passed over."""
    found = []
    if settings.theme not in themes:
        found.append(f"config.toml: there is no theme {settings.theme!r}")
    known = {action.id for action in ACTIONS}
    found += [f"config.toml: there is no action {id_!r} to bind a key to" for id_ in settings.keys if id_ not in known]
    keys = keymap_of(settings)
    for action in ACTIONS:
        for key in settings.keys.get(action.id, "enter").split(","):
            if not is_key(key.strip()):
                found.append(f"config.toml: there is no key {key.strip()!r}, which {action.id!r} is bound to")
        for key in keys_of(action, keys) if action.id in settings.keys else ():
            if other := taken_by(action, key, keys):
                found.append(f"config.toml: {key} is a key of {action.id!r} and of {other.id!r}")
    return found


_MODIFIERS = {"ctrl", "shift", "alt", "super", "hyper", "meta"}
_KEYS = {key.value for key in Keys} | set(KEY_NAME_REPLACEMENTS.values())


def is_key(name: str) -> bool:
    """Whether a terminal may send it: `a`, `?`, `slash`, `ctrl+shift+f5`."""
    *modifiers, last = name.split("+")
    return _MODIFIERS.issuperset(modifiers) and (len(last) == 1 or last in _KEYS or key_to_character(last) is not None)


def keys_of(action: Action, keys: dict[str, str]) -> list[str]:
    """Those in force; `keys` are the ones that were changed."""
    return [key.strip() for key in (keys.get(action.id) or action.keys).split(",")]


def keys_said(action_id: str, settings: Tui) -> list[str]:
    """The same, of an action by its id, as sentences name them: `Ctrl+S`, `n`, `/`."""
    keys = next(keys_of(action, keymap_of(settings)) for action in ACTIONS if action.id == action_id)
    return [shown if len(shown := format_key(key)) == 1 and shown.isascii() else key.title() for key in keys]


def taken_by(action: Action, key: str, keys: dict[str, str]) -> Action | None:
    """Another action that already has this key where `action` would have it."""
    for other in ACTIONS:
        if other.id != action.id and _meet(action.where, other.where) and key in keys_of(other, keys):
            return other
    return None


def _meet(one: str, other: str) -> bool:
    """Whether the actions of two places may be valid at the same time."""
    return one == other or "app" in (one, other) or ("list" in (one, other) and "session" not in (one, other))


def is_typed(action: Action, character: str | None) -> bool:
    """Whether a key would write a letter where the action is to have it, so that it cannot have it."""
    return bool(character and character.isprintable()) and (action.is_priority or action.where in ("app", "session"))
