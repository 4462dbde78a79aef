"""Where things live: the state root, the configuration and the socket.

`KHEISH_STATE_ROOT`, `KHEISH_CONFIG_DIR` and `KHEISH_SOCKET` win over the platform's user directories. A quick command
wants only a name, which is a text: it pays neither for pathlib nor, on Linux, for platformdirs.
"""

from __future__ import annotations

import os
import sys

from kheish.limits import SOCKET_PATH_BYTES_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

_XDG = {"state": ("XDG_STATE_HOME", "~/.local/state"), "config": ("XDG_CONFIG_HOME", "~/.config")}


def state_root() -> Path:
    """The directory that holds all durable state."""
    return _path(_state_root())


def config_dir() -> Path:
    """The directory of `routes.toml` and `config.toml`, written by people, read by the daemon."""
    return _path(_chosen("KHEISH_CONFIG_DIR") or _user_dir("config"))


def log_path(root: Path | None = None) -> Path:
    return _path(log_name(root))


def log_name(root: Path | str | None = None) -> str:
    return os.path.join(root or _state_root(), "daemon", "daemon.log")


def socket_path(root: Path | None = None) -> Path:
    """`socket_name` as a path."""
    return _path(socket_name(root))


def socket_name(root: Path | None = None) -> str:
    """The daemon's socket, in the state root: daemons of two roots never meet, and whoever finds the root finds the
    socket. (A runtime directory is gone after a logout that the daemon outlives, and unknown to cron.)

    A path over the kernel's limit (108 bytes on Linux, 104 on macOS) falls back to a short private directory that is
    named after the root.
    """
    chosen = _chosen("KHEISH_SOCKET")
    if chosen:
        return chosen
    holder = root or _state_root()
    name = os.path.join(holder, "daemon", "kheish.sock")
    if len(os.fsencode(name)) <= SOCKET_PATH_BYTES_MAX:
        return name
    return os.path.join(short_dir(holder), "kheish.sock")


def short_dir(root: Path | str) -> str:
    """The directory of the socket where its path in the state root is too long; the daemon makes and removes it."""
    import hashlib  # noqa: PLC0415 - seldom needed, slow to import

    digest = hashlib.blake2b(os.fsencode(root), digest_size=8).hexdigest()
    return f"/tmp/kheish-{os.getuid()}-{digest}"  # noqa: S108 - made 0700 and checked


def _state_root() -> str:
    return _chosen("KHEISH_STATE_ROOT") or _user_dir("state")


def _chosen(variable: str) -> str:
    value = os.environ.get(variable)
    return os.path.abspath(os.path.expanduser(value)) if value else ""


def _user_dir(kind: str) -> str:
    """What platformdirs says. Source for Linux: the XDG Base Directory Specification 0.8."""
    if sys.platform == "linux":
        variable, default = _XDG[kind]
        base = os.environ.get(variable, "")
        base = base if os.path.isabs(base) else os.path.expanduser(default)
        if os.path.isabs(base):
            return os.path.abspath(os.path.join(base, "kheish"))
    import platformdirs  # noqa: PLC0415

    found = platformdirs.user_state_dir if kind == "state" else platformdirs.user_config_dir
    return found("kheish", appauthor=False)


def _path(name: str) -> Path:
    from pathlib import Path  # noqa: PLC0415

    return Path(name)
