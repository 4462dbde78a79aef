"""Everything that Kheish needs, checked in the order in which it matters: what `kheish doctor` says."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kheish import __version__, paths
from kheish.errors import KheishError
from kheish.terminal import counted

if TYPE_CHECKING:
    from kheish.client import Kheish, StatusView, TestKind

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
            yield "quotas", _QUOTA_VERDICTS[warning["code"]], f"{warning['message']}; {warning['action']}"
    damaged = [w["session_id"] for w in view["warnings"] if w["code"] == "session_read_only" and w["session_id"]]
    if damaged:
        names = ", ".join(damaged[:5])
        left = view["sessions"]["read_only"] - len(damaged[:5])
        more = f" and {left} more" if left > 0 else ""
        yield "sessions", WRONG, f"read-only after damage: {names}{more}; see `kheish sessions verify --all`"
    else:
        yield "sessions", OK, f"{counted(view['sessions']['total'], 'session')}, none damaged"
    yield from _routes(client)
    yield from _secrets(client)
    found = shutil.which("rg")
    yield "ripgrep", OK if found else NOTE, found or "not found; grep_search uses its own, slower search"
    found = shutil.which("bash")
    yield "bash", OK if found else NOTE, found or "not found; commands run with /bin/sh"


def state_root_problem() -> str:
    """Why nothing can be written into the state root, or ""."""
    root = paths.state_root()
    try:
        os.makedirs(root, mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "make room" if is_full else "set KHEISH_STATE_ROOT to another place"
        return f"cannot write {root}: {error.strerror}; {remedy}"
    return ""


def _state_root() -> Check:
    if problem := state_root_problem():
        return "state root", WRONG, problem
    root = paths.state_root()
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
    default = next((row for row in rows if row["is_default"]), None)
    if default is None:
        yield "routes", WRONG, "the default names a route that is gone; choose another with `kheish runtime set-model`"
        return
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


def _secrets(client: Kheish) -> Iterator[Check]:
    """The master key, and what cannot be read or is named by a route and missing."""
    try:
        key, rows = client.secrets.master_key(), client.secrets.list()
        named = {row["auth_ref"]: row["route_id"] for row in client.daemon.routes() if row["auth_ref"]}
    except KheishError as error:
        yield "secrets", NOTE if error.code == "operator_required" else WRONG, error.message
        return
    known = {row["name"] for row in rows}
    faults = [
        *filter(None, [key["problem"]]),
        *(f"{row['name']}: {row['problem']}" for row in rows if row["problem"] and not key["problem"]),
        *(
            f"route {route_id} needs the secret {name}, which is missing: `kheish secrets set {name}`"
            for name, route_id in named.items()
            if name not in known
        ),
    ]
    for fault in faults:
        yield "secrets", WRONG, fault
    if key["is_changing"]:
        yield "secrets", NOTE, "a change of the master key was cut off: `kheish secrets rotate-key` ends it"
    elif not faults:
        yield "secrets", OK, f"{len(rows)} secrets, sealed by the key in {key['place']}" if rows else "none"


def check_routes(client: Kheish, *, check_auth: bool, canary: bool) -> Iterator[Check]:
    """Every route that was configured, and every hop of every chain; asks their servers only where that is wanted.
    Blocks."""
    try:
        rows = {row["route_id"]: row for row in client.daemon.routes()}
        chains = client.daemon.chains()
    except KheishError as error:
        yield "routes", WRONG, error.message
        return
    spared = {(c["route"], c["model"]): c["code"] for chain in chains for c in chain["cooling"]}
    hops = {(hop["route"], hop["model"]): f"chain {chain['chain_id']}" for chain in chains for hop in chain["hops"]}
    for route_id, row in rows.items():
        if row["source"] != "built in" or row["is_default"]:
            hops.setdefault((route_id, row["default_model"]), row["source"])
    tests: list[tuple[bool, TestKind]] = [(check_auth, "auth"), (canary, "canary")]
    for (route_id, model), where in hops.items():
        name = f"{route_id}/{model}" if model else route_id
        if route_id not in rows:
            yield name, WRONG, f"{where}: there is no such route"
            continue
        if not rows[route_id]["ready"]:
            yield name, WRONG, f"{where}: {rows[route_id]['problem']}"
            continue
        verdict, said = OK, [where]
        if code := spared.get((route_id, model)):
            verdict = NOTE
            said.append(f"spared now: {code}")
        for kind in (kind for is_wanted, kind in tests if is_wanted):
            found = client.routes.test(route_id, kind=kind, model=model)
            if found["ok"]:
                said.append(f"{_TAKEN[kind]} ({found['latency_ms']} ms)")
                continue
            # Some servers keep no list of models: that says nothing of the key.
            verdict = NOTE if kind == "auth" and found["code"] == "invalid" and verdict != WRONG else WRONG
            said.append(f"{found['code']}: {found['problem']}{_ADVICE.get(found['code'], '')}")
            if found["code"] in ("auth", "connection"):
                break  # a call would fail in the same way
        yield name, verdict, "; ".join(said)


_TAKEN: dict[TestKind, str] = {"auth": "the key is taken", "canary": "it answers"}
_ADVICE = {
    "auth": "; set the key anew: `kheish routes get ROUTE` says which",
    "connection": "; see whether its server runs and can be reached from here",
    "invalid": "; see whether it knows the model: `kheish routes set ROUTE --model MODEL`",
}
