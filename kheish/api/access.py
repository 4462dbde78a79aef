"""Who is at the other end of a connection, and what they may decide.

The kernel tells the peer's uid and pid. The socket's own uid is an operator, unless the peer belongs to a tool call of
this daemon: a descendant of it, or a process that carries the ids of one of its runs. Such a peer is that run; it may
read and submit, but never approve, answer or change policy.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import sys
from collections.abc import Callable

import msgspec

from kheish.errors import Forbidden
from kheish.runtime.supervisor import Caller
from kheish.tools.processes import is_descendant, read_variable

_ORIGIN = re.compile(r"[a-z0-9][a-z0-9:._/-]{0,63}\Z")
_SOL_LOCAL, _LOCAL_PEERCRED, _LOCAL_PEERPID = 0, 1, 2


class Peer(msgspec.Struct, frozen=True):
    """`pid` is 0 where the system does not tell."""

    uid: int
    pid: int


def peer_of(connection: socket.socket) -> Peer:
    """The other end of a Unix socket, as the kernel noted it when it connected."""
    if sys.platform == "darwin":
        credentials = connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, 76)
        uid = struct.unpack_from("Ii", credentials)[1]
        pid = connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID)
        return Peer(uid, pid)
    pid, uid, _ = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return Peer(uid, pid)


def caller_of(peer: Peer, origin: str, is_ours: Callable[[str], bool]) -> Caller:
    """`is_ours` says whether this daemon knows a run. Raises Forbidden for another user's process."""
    if peer.uid not in (os.getuid(), 0):
        raise Forbidden(f"cannot serve uid {peer.uid}: this daemon belongs to uid {os.getuid()}")
    origin = origin if _ORIGIN.match(origin) else "http"
    run_id = read_variable(peer.pid, "KHEISH_RUN_ID") if peer.pid else ""
    if run_id and is_ours(run_id):
        return Caller(principal=f"run:{run_id}", origin=origin, is_operator=False)
    if peer.pid and peer.pid != os.getpid() and is_descendant(peer.pid, os.getpid()):
        return Caller(principal="run:unknown", origin=origin, is_operator=False)
    return Caller(principal=f"user:{peer.uid}", origin=origin, is_operator=True)
