"""Who is at the other end of a connection, and what they may decide.

The kernel tells the peer's uid and pid. The socket's own uid is an operator, unless the peer belongs to a tool call:
a descendant of this daemon, or a process that carries the id of a run, also another's. Such a peer is that run; it may
read and submit, but never approve, answer or change policy. A peer is looked at once, when it connects: later its pid
may be another's.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import sys

import msgspec

from kheish.errors import Forbidden
from kheish.runtime.supervisor import Caller
from kheish.tools.processes import identify, is_descendant, read_variable

_ORIGIN = re.compile(r"[a-z0-9][a-z0-9:._/-]{0,63}\Z")
_RUN_ID = re.compile(r"run_[0-9A-Za-z]{1,64}\Z")
_SOL_LOCAL, _LOCAL_PEERCRED, _LOCAL_PEERPID = 0, 1, 2


class Peer(msgspec.Struct, frozen=True):
    """`pid` is 0 where the system does not tell. `run_id` is what its environment says. `is_ours`: this daemon's tool
    calls started it, or one could not tell."""

    uid: int
    pid: int
    run_id: str = ""
    is_ours: bool = False


def peer_of(connection: socket.socket) -> Peer:
    """The other end of a Unix socket, as the kernel noted it when it connected."""
    if sys.platform == "darwin":
        credentials = connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, 76)
        uid = struct.unpack_from("Ii", credentials)[1]
        pid = connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID)
    else:
        pid, uid, _ = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if not pid or pid == os.getpid():
        return Peer(uid, pid)
    try:
        run_id = read_variable(pid, "KHEISH_RUN_ID")
        return Peer(uid, pid, run_id, is_ours=is_descendant(pid, os.getpid()) or not _exists(pid))
    except OSError:  # such as where no descriptor is left to look with
        return Peer(uid, pid, is_ours=True)


def _exists(pid: int) -> bool:
    try:
        identify(pid)
    except ProcessLookupError:
        return False
    return True


def caller_of(peer: Peer, origin: str) -> Caller:
    """Raises Forbidden for another user's process."""
    if peer.uid not in (os.getuid(), 0):
        raise Forbidden(f"cannot serve uid {peer.uid}: this daemon belongs to uid {os.getuid()}")
    origin = origin if _ORIGIN.match(origin) else "http"
    if peer.run_id or peer.is_ours:
        run_id = peer.run_id if _RUN_ID.match(peer.run_id) else "unknown"
        return Caller(principal=f"run:{run_id}", origin=origin, is_operator=False)
    return Caller(principal=f"user:{peer.uid}", origin=origin, is_operator=True)
