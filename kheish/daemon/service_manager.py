"""What systemd passes to a daemon that it starts: a socket that listens already, and whom to tell the state.

Sources: sd_listen_fds(3), sd_notify(3).
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from kheish.errors import Invalid

_FIRST_FD = 3


class ServiceManager:
    """Takes what is meant for this process out of the environment, so that no tool's command sees it."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        self._sockets = 0
        pid, sockets = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
        os.environ.pop("LISTEN_FDNAMES", None)
        if pid == str(os.getpid()) and sockets.isdecimal():
            self._sockets = int(sockets)
            for fd in range(_FIRST_FD, _FIRST_FD + self._sockets):
                os.set_inheritable(fd, False)

    def take_listener(self, path: Path) -> socket.socket | None:
        """The socket at `path`, made private, which stays the manager's; None where it passed none.

        Raises Invalid where it passed anything else: clients would look for the daemon elsewhere.
        """
        if not self._sockets:
            return None
        listener = socket.socket(fileno=_FIRST_FD)
        is_ours = (
            self._sockets == 1
            and (listener.family, listener.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
            and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            and listener.getsockname() == os.fspath(path)
        )
        if not is_ours:
            raise Invalid(
                f"cannot serve: the service manager has to pass one listening Unix socket, at {path}; write its units "
                "anew with `kheish daemon install`"
            )
        os.chmod(path, 0o600)
        listener.setblocking(False)
        return listener

    def notify(self, state: str) -> None:
        """`READY=1` or `STOPPING=1`."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect("\0" + self._address[1:] if self._address.startswith("@") else self._address)
            sender.send(state.encode())
