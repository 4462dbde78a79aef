"""Where lines that begin with `!` run. Each is a shell of its own, which begins in the session's directory; a `cd`
alone is remembered here, and goes before the lines that follow, as anyone can see who decides about them."""

from __future__ import annotations

import os
import re
import shlex

_MORE_THAN_WORDS = re.compile(r"[\n;&|<>$`*?(){}\[\]#!]")


def target_of(command: str) -> str | None:
    """Where a `cd` alone goes, "" for back to where the session is; None for any other command."""
    if _MORE_THAN_WORDS.search(command):
        return None
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    if words[:1] != ["cd"] or len(words) > 2 or words[1:] == ["-"]:
        return None
    return words[1] if words[1:] else ""


def resolve(target: str, place: str, cwd: str) -> str:
    """The place that `target` is, seen from another; "" is the session's directory `cwd`."""
    found = os.path.normpath(os.path.join(place or cwd, os.path.expanduser(target))) if target else cwd
    return "" if found == os.path.normpath(cwd) else found


def command_at(place: str, command: str) -> str:
    """What runs nothing where the place is gone."""
    return f"cd {shlex.quote(place)} || exit\n{command}" if place else command


def name_of(place: str, cwd: str) -> str:
    """As seen from the session's directory, where it is within that."""
    return os.path.relpath(place, cwd) if place.startswith(cwd.rstrip(os.sep) + os.sep) else place
