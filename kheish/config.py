"""`config.toml`: what a person sets for the daemon and for the TUI. Strict: an unknown key or a wrong type is an error
that names it.

[permissions]
allow = ["bash(git status*)"]
ask = ["read_file(secrets/*)"]
deny = ["bash(sudo *)"]

[secrets]
keyring = true

[store]
vacuum = "manual"

[quotas]
session_bytes = "500MB"
state_bytes = "20GB"

[budgets]
daily_cost_usd = 20.0
session_tokens = 5_000_000
run_steps = 200

[tui]
theme = "kheish-light"

[tui.keys]
"session.steer" = "ctrl+g"
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from kheish.errors import Invalid
from kheish.limits import DOLLARS_MAX

FILE_NAME = "config.toml"


class Permissions(msgspec.Struct, forbid_unknown_fields=True):
    """Rules of the scope `user`, as patterns."""

    allow: list[str] = []
    ask: list[str] = []
    deny: list[str] = []


class Secrets(msgspec.Struct, forbid_unknown_fields=True):
    """`keyring`: the master key is in the system's keyring instead of the state root."""

    keyring: bool = False


class Size(int):
    """Bytes; in the file `500000`, `"500KB"` or `"2 GiB"`."""


class Quotas(msgspec.Struct, forbid_unknown_fields=True):
    """From which size on no new work is taken: of one session, and of all sessions and blobs. 0: there is no quota."""

    session_bytes: Size = Size(0)
    state_bytes: Size = Size(0)


class Store(msgspec.Struct, forbid_unknown_fields=True):
    """`vacuum`: whether the daemon packs the journals of sessions that it has put away, or somebody does it by hand."""

    vacuum: Literal["auto", "manual"] = "auto"


Dollars = Annotated[float, msgspec.Meta(gt=0, le=DOLLARS_MAX)]
Count = Annotated[int, msgspec.Meta(gt=0, lt=1 << 53)]


class Budgets(msgspec.Struct, forbid_unknown_fields=True):
    """Of each run and each session that set none of their own, of each day, and of the daemon for all time."""

    run_cost_usd: Dollars | None = None
    run_tokens: Count | None = None
    run_steps: Count | None = None
    run_wall_ms: Count | None = None
    session_cost_usd: Dollars | None = None
    session_tokens: Count | None = None
    session_steps: Count | None = None
    session_wall_ms: Count | None = None
    daily_cost_usd: Dollars | None = None
    daily_tokens: Count | None = None
    daily_steps: Count | None = None
    daily_wall_ms: Count | None = None
    daemon_cost_usd: Dollars | None = None
    daemon_tokens: Count | None = None
    daemon_steps: Count | None = None
    daemon_wall_ms: Count | None = None


Notice = Literal["off", "bell", "terminal", "desktop"]
"""How the person is told: not at all, by the bell, by the terminal's own notification, or by the desktop's."""


class Notices(msgspec.Struct, forbid_unknown_fields=True):
    """What a person who looks elsewhere is told of, and how. `title`: the terminal's title counts what waits."""

    approval: Notice = "terminal"
    question: Notice = "terminal"
    completed: Notice = "off"
    failed: Notice = "terminal"
    title: bool = True


class Tui(msgspec.Struct, forbid_unknown_fields=True):
    """`keys` maps `place.action` to keys, several with commas; `kheish tui` shows them all with F1."""

    theme: str = "kheish-dark"
    vim: bool = False
    readline: bool = False
    ascii: bool = False
    reduced_motion: bool = False
    mouse: bool = True
    confirm_leaving: bool = False
    keys: dict[str, str] = {}
    notices: Notices = msgspec.field(default_factory=Notices)


class Config(msgspec.Struct, forbid_unknown_fields=True):
    permissions: Permissions = msgspec.field(default_factory=Permissions)
    secrets: Secrets = msgspec.field(default_factory=Secrets)
    store: Store = msgspec.field(default_factory=Store)
    quotas: Quotas = msgspec.field(default_factory=Quotas)
    budgets: Budgets = msgspec.field(default_factory=Budgets)
    tui: Tui = msgspec.field(default_factory=Tui)


_SIZE = re.compile(r"(\d+(?:\.\d+)?) *(?:([KMGT])(i?)B|B)?", re.IGNORECASE)


def _decode(kind: type, value: Any) -> Any:
    match = _SIZE.fullmatch(str(value)) if isinstance(value, int | str) else None
    if kind is not Size or match is None:
        raise ValueError(f"{value!r} is no size; write one as 500MB or 2GiB")
    number, unit, is_binary = match.groups()
    return Size(float(number) * (1024 if is_binary else 1000) ** ("KMGT".index(unit.upper()) + 1 if unit else 0))


def load_config(directory: Path) -> Config:
    """The configuration of a directory; defaults where there is no file. Raises Invalid, with path and line."""
    path = directory / FILE_NAME
    try:
        text = path.read_text("utf-8")
        tables = tomllib.loads(text)
    except FileNotFoundError:
        return Config()
    except (OSError, ValueError) as error:
        raise Invalid(f"cannot read {path}: {error}", code="invalid_config", path=str(path)) from error
    try:
        return msgspec.convert(tables, Config, dec_hook=_decode)
    except msgspec.ValidationError as error:
        key, reason = explain(error)
        where = locate(path, text, tuple(key.split(".")))
        raise Invalid(f"cannot read {where}: {reason}", code="invalid_config", path=str(path)) from error


# -- where in a file of TOML something stands -------------------------------------------------------------------------


def explain(error: msgspec.ValidationError) -> tuple[str, str]:
    """(the key at fault, with dots, or "" for all that was read; what is wrong with it)."""
    reason, _, place = str(error).partition(" - at `$")
    place = place.strip(".`")
    inside = f" in {place}" if place else ""
    if match := re.search(r"unknown field `(.+)`", reason):
        reason = f"unknown key {match.group(1)}{inside}"
        place = f"{place}.{match.group(1)}".strip(".")
    elif match := re.search(r"missing required field `(.+)`", reason):
        reason = f"the key {match.group(1)} is missing{inside}"
    elif place:
        reason = f"{place}: {reason}"
    return place.partition("[")[0], reason


def locate(path: Path, text: str, place: tuple[str, ...]) -> str:
    """A file, with the line where it first has something at a place, however that is written."""
    lines = text.split("\n")
    for number in range(1, len(lines) + 1 if place else 1):
        try:
            node: Any = tomllib.loads("\n".join(lines[:number]))
        except tomllib.TOMLDecodeError:
            continue
        for key in place:
            node = node.get(key) if isinstance(node, dict) else None
        if node is not None:
            return f"{path}, line {number}"
    return str(path)
