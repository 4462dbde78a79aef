"""Where things live: the state root, the configuration and the socket.

`KHEISH_STATE_ROOT`, `KHEISH_CONFIG_DIR` and `KHEISH_SOCKET` win over the platform's user directories.
"""

from __future__ import annotations

import os
from pathlib import Path

from kheish.limits import SOCKET_PATH_BYTES_MAX


def state_root() -> Path:
    """The directory that holds all durable state."""
    chosen = os.environ.get("KHEISH_STATE_ROOT")
    if chosen:
        return Path(os.path.abspath(os.path.expanduser(chosen)))
    import platformdirs  # noqa: PLC0415 - only those who did not choose pay for it

    return platformdirs.user_state_path("kheish", appauthor=False)


def config_dir() -> Path:
    """The directory of `routes.toml` and `config.toml`, written by people, read by the daemon."""
    chosen = os.environ.get("KHEISH_CONFIG_DIR")
    if chosen:
        return Path(os.path.abspath(os.path.expanduser(chosen)))
    import platformdirs  # noqa: PLC0415

    return platformdirs.user_config_path("kheish", appauthor=False)


def socket_path(root: Path | None = None) -> Path:
    """The daemon's socket, in the state root: daemons of two roots never meet, and whoever finds the root finds the
    socket. (A runtime directory is gone after a logout that the daemon outlives, and unknown to cron.)

    A path over the kernel's limit (108 bytes on Linux, 104 on macOS) falls back to a short private directory that is
    named after the root.
    """
    chosen = os.environ.get("KHEISH_SOCKET")
    if chosen:
        return Path(os.path.abspath(os.path.expanduser(chosen)))
    root = root or state_root()
    path = root / "daemon" / "kheish.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        return path
    import hashlib  # noqa: PLC0415 - seldom needed, slow to import

    digest = hashlib.blake2b(os.fsencode(root), digest_size=8).hexdigest()
    return Path("/tmp") / f"kheish-{os.getuid()}-{digest}" / "kheish.sock"  # noqa: S108 - made 0700 and checked


def log_path(root: Path | None = None) -> Path:
    return (root or state_root()) / "daemon" / "daemon.log"
