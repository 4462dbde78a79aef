"""Everything that Kheish needs, checked in the order in which it matters: what `kheish doctor` says."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kheish import __version__, paths
from kheish.errors import KheishError

if TYPE_CHECKING:
    from kheish.client import Kheish, StatusView

OK, NOTE, WRONG = "ok", "note", "wrong"

KEYS = (
    "ANTHROPIC_API_KEY",
    "OPENAI_API_KEY",
    "GEMINI_API_KEY",
    "GOOGLE_API_KEY",
    "OPENROUTER_API_KEY",
    "XAI_API_KEY",
)
"""The variables that make a route by themselves."""

_QUOTA_VERDICTS = {"quota_near": NOTE, "quota_exceeded": WRONG}

Check = tuple[str, str, str]
"""(name, verdict, what was found and what to do)."""


def checks(client: Kheish) -> Iterator[Check]:
    """Blocks."""
    yield "version", OK, f"kheish {__version__}, Python {sys.version.split()[0]}, {sys.executable}"
    root = _state_root()
    yield root
    if root[1] == WRONG:
        return
    yield _disk()
    try:
        view = client.daemon.status()
    except KheishError as error:
        yield "daemon", WRONG, error.message
        return
    yield _daemon(view)
    yield _socket(view)
    for warning in view["warnings"]:
        if warning["code"] in _QUOTA_VERDICTS:
            yield "quotas", _QUOTA_VERDICTS[warning["code"]], warning["message"]
    damaged = [w["session_id"] for w in view["warnings"] if w["code"] == "session_read_only"]
    if damaged:
        names = ", ".join(damaged[:5])
        yield "sessions", WRONG, f"read-only after damage: {names}; see `kheish sessions verify --all`"
    else:
        yield "sessions", OK, f"{view['sessions']['total']} sessions, none damaged"
    yield from _routes(client)
    found = shutil.which("rg")
    yield "ripgrep", OK if found else NOTE, found or "not found; grep_search uses its own, slower search"
    found = shutil.which("bash")
    yield "bash", OK if found else NOTE, found or "not found; commands run with /bin/sh"


def _state_root() -> Check:
    root = paths.state_root()
    try:
        os.makedirs(root, mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return "state root", WRONG, f"cannot write {root}: {error.strerror}; set KHEISH_STATE_ROOT to another place"
    mode = stat.S_IMODE(os.stat(root).st_mode)
    if mode & 0o077:
        return "state root", WRONG, f"{root} is open to others (mode {mode:o}); chmod 700 {root}"
    return "state root", OK, str(root)


def _disk() -> Check:
    from kheish.store.disk_space import disk_space

    space = disk_space(paths.state_root())
    if space.is_low:
        return "disk", WRONG, f"{space}: no new work is taken; `kheish sessions vacuum --all` may free some"
    return "disk", OK, str(space)


def _daemon(view: StatusView) -> Check:
    text = f"pid {view['pid']}, generation {view['generation']}, version {view['version']}"
    if view["version"] != __version__:
        return "daemon", WRONG, f"{text}; this is {__version__}: `kheish daemon restart`"
    return "daemon", OK, text


def _socket(view: StatusView) -> Check:
    path = view["socket"]
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & 0o077:
        return "socket", WRONG, f"{path} is open to others (mode {mode:o}); `kheish daemon restart`"
    return "socket", OK, path


def _routes(client: Kheish) -> Iterator[Check]:
    try:
        rows = client.daemon.routes()
    except KheishError as error:
        yield "routes", WRONG, error.message
        return
    default = next(row for row in rows if row["is_default"])
    text = f"{default['route_id']} ({default['driver']}, {default['default_model']}), from {default['source']}"
    if not default["ready"]:
        yield "routes", WRONG, f"{text}: {default['problem']}"
    elif default["driver"] == "rehearsal":
        keys = [name for name in KEYS if os.environ.get(name)]
        hint = (
            f"{keys[0]} is set here but was not where the daemon was started: `kheish daemon restart`"
            if keys
            else f"no language model: set one of {', '.join(KEYS)}, start a local server, or write "
            f"{paths.config_dir() / 'routes.toml'}"
        )
        yield "routes", NOTE, f"{text}; {hint}"
    else:
        yield "routes", OK, text
