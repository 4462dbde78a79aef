"""What people name on the command line: this directory's session, a run, a session, or the beginning of an id."""

from __future__ import annotations

import hashlib
import os
import re

from kheish.client import ApiError, Kheish
from kheish.errors import Conflict, NotFound


def connect(*, start: bool = True) -> Kheish:
    return Kheish(origin="cli", start=start)


def directory_session(cwd: str | None = None) -> str:
    """The name of a directory's session: its last part and a digest of its real path."""
    real = os.path.realpath(cwd or os.getcwd())
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", os.path.basename(real)).strip("-._")[:64] or "root"
    return f"{slug}-{hashlib.blake2b(os.fsencode(real), digest_size=3).hexdigest()}"


def find_session(client: Kheish, given: str) -> str:
    """By name, or by the unambiguous beginning of one; the directory's where nothing is given."""
    name = given or directory_session()
    try:
        return str(client.sessions.get(name)["session_id"])
    except ApiError as error:
        if error.code != "session_not_found":
            raise
        if not given:
            raise NotFound(
                f"cannot find a session of this directory ({name}): `kheish run TEXT` creates it, `kheish ps -a` "
                "lists others"
            ) from error
    found = [row["session_id"] for row in client.sessions.list(limit=1000) if row["session_id"].startswith(given)]
    if len(found) != 1:
        if found:
            raise Conflict(f"cannot tell which session {given} is: {', '.join(sorted(found)[:5])}")
        raise NotFound(f"cannot find session {given}: `kheish ps -a` lists them all")
    return str(found[0])


def find_target(client: Kheish, given: str) -> tuple[str, str]:
    """("run" | "session", id)."""
    if not given:
        return "session", find_session(client, "")
    if not given.startswith("run_"):
        try:
            return "session", find_session(client, given)
        except NotFound as error:
            missing = error
    else:
        missing = NotFound(f"cannot find run {given}: `kheish runs list` lists them")
    try:
        return "run", str(client.runs.get(given)["run_id"])
    except ApiError as error:
        if error.code != "run_not_found":
            raise
        raise missing from None
