"""What people name on the command line: this directory's session, a run, a session, or the beginning of an id."""

from __future__ import annotations

import os
import re

from kheish.client import ApiError, Kheish
from kheish.errors import Conflict, Invalid, NotFound
from kheish.limits import PAGE_ITEMS_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheish.client import SessionView


def connect(*, start: bool = True) -> Kheish:
    return Kheish(origin="cli", start=start)


def directory_session(cwd: str | None = None) -> str:
    """The name of a directory's session: its last part and a digest of its real path. Raises Invalid."""
    from _blake2 import blake2b  # hashlib's own; hashlib loads all of OpenSSL beside it

    try:
        real = os.path.realpath(cwd or os.getcwd())
    except FileNotFoundError as error:
        raise Invalid("cannot tell whose session is meant: this directory is gone; cd, or name a session") from error
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", os.path.basename(real)).strip("-._")[:64] or "root"
    return f"{slug}-{blake2b(os.fsencode(real), digest_size=3).hexdigest()}"


def find_session(client: Kheish, given: str | None) -> str:
    """By name, or by the unambiguous beginning of one; the directory's where nothing is given."""
    name = given or directory_session()
    try:
        return client.sessions.get(name)["session_id"]
    except ApiError as error:
        if error.code == "session_corrupt":
            return name  # it is there, and can be read up to its fault
        if error.code != "session_not_found":
            raise
        if given is None:
            raise NotFound(
                f"cannot find a session of this directory ({name}): `kheish run TEXT` creates it, `kheish ps -a` "
                "lists others"
            ) from error
    names = (row["session_id"] for row in each_session(client))
    found = [n for n in names if n.startswith((name, f"session_{name}"))]
    if len(found) != 1:
        if found:
            raise Conflict(f"cannot tell which session {given} is: {', '.join(sorted(found)[:5])}")
        raise NotFound(f"cannot find session {given}: `kheish ps -a` lists them all")
    return found[0]


def each_session(client: Kheish, status: str | None = None, limit: int = PAGE_ITEMS_MAX) -> Iterator[SessionView]:
    """Every session once, newest change first. What changes between two pages moves before those that are left: the
    list is begun anew, down to where it began before, and what was missed comes last."""
    seen: set[str] = set()
    since_ms = newest_ms = 0
    while True:
        pages_read = 0
        for rows in _pages(client, status, min(limit, PAGE_ITEMS_MAX)):
            pages_read += 1
            fresh = [row for row in rows if row["updated_at_ms"] >= since_ms]
            newest_ms = max([newest_ms, *(row["updated_at_ms"] for row in fresh)])
            yield from (row for row in fresh if row["session_id"] not in seen)
            seen.update(row["session_id"] for row in fresh)
            if len(fresh) < len(rows):
                break
        if pages_read == 1:
            return
        since_ms = newest_ms


def _pages(client: Kheish, status: str | None, limit: int) -> Iterator[list[SessionView]]:
    cursor = None
    while True:
        page = client.sessions.page(status=status, cursor=cursor, limit=limit)
        yield page["items"]
        cursor = page["next_cursor"]
        if not cursor:
            return


def find_target(client: Kheish, given: str | None) -> tuple[str, str]:
    """("run" | "session", id)."""
    if given is None:
        return "session", find_session(client, None)
    if not given.startswith("run_"):
        try:
            return "session", find_session(client, given)
        except NotFound as error:
            missing = error
    else:
        missing = NotFound(f"cannot find run {given}: `kheish runs list` lists them")
    try:
        return "run", client.runs.get(given)["run_id"]
    except ApiError as error:
        if error.code != "run_not_found":
            raise
        raise missing from None
