"""Patterns on paths: `*` and `?` inside one name, `[abc]` one of these, `**` any directories, `{a,b}` either.

A pattern becomes a regular expression that cannot take for ever, since it runs in the daemon: each star but the last
of a name, and each `**` but the last of a path, settles for the first place where what follows it fits. With neither
alternatives nor a star across names left inside, a later place would never match more.
"""

from __future__ import annotations

import re

from kheish.tools.work import Unusable

_CHARS_MAX = 1_000
_ALTERNATIVES_MAX = 256
_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")
_PIECE = re.compile(r"(\\.|\*+|\?|\[[!^]?\]?[^\]/]*\])")


def normalize_glob(pattern: str) -> str:
    """The pattern as every searcher reads it alike. Raises Unusable for one that could not match anything."""
    if "\0" in pattern or len(pattern) > _CHARS_MAX:
        raise Unusable(f"a pattern may have {_CHARS_MAX} characters and no NUL among them")
    if pattern.startswith("/") or ".." in pattern.split("/"):
        raise Unusable(
            f"{pattern} is no pattern: it is matched below path, so it neither starts with / nor contains .."
        )
    if pattern.startswith("!"):
        raise Unusable(f"{pattern} is no pattern: it says what is found; it cannot leave anything out")
    names = []
    for name in (f"{pattern}**" if pattern.endswith("/") else pattern).split("/"):
        if name.startswith("**") and name.strip("*"):
            names += ["**", f"*{name.lstrip('*')}"]
        elif name not in ("", ".") and not (name == "**" and names[-1:] == ["**"]):
            names.append(name)
    return "/".join(names)


def compile_glob(pattern: str) -> re.Pattern[str]:
    """Matches whole paths, relative to where the search begins. Raises Unusable."""
    alternatives = "|".join(map(_to_regex, _expand(normalize_glob(pattern))))
    try:
        return re.compile(f"(?:{alternatives})\\Z", re.DOTALL)
    except re.error as error:
        raise Unusable(f"{pattern} is no pattern: {error}") from None


def _expand(pattern: str) -> list[str]:
    """The pattern once for each combination of its alternatives."""
    expanded, rest = [], [pattern]
    while rest:
        one = rest.pop()
        braces = _BRACES.search(one)
        if braces is None:
            expanded.append(one)
        else:
            rest += [one[: braces.start()] + option + one[braces.end() :] for option in braces.group(1).split(",")]
        if len(expanded) + len(rest) > _ALTERNATIVES_MAX:
            raise Unusable(f"{pattern} is no pattern: it has more than {_ALTERNATIVES_MAX} alternatives")
    return expanded


def _to_regex(pattern: str) -> str:
    """Of a pattern without alternatives."""
    blocks: list[list[str]] = [[]]
    for name in pattern.split("/"):
        if name == "**":
            blocks.append([])
        else:
            blocks[-1].append(_name_to_regex(name))
    first, *middle, last = blocks if len(blocks) > 1 else ([], blocks[0])
    any_directories = "(?:[^/]++/)*"
    out = "".join(f"{name}/" for name in first)
    out += "".join(f"(?>{any_directories}?{'/'.join(block)}/)" for block in middle if block)
    if len(blocks) > 1:
        out += any_directories if last else ".+"
    return out + "/".join(last)


def _name_to_regex(name: str) -> str:
    fixed = [""]
    for piece in _PIECE.split(name):
        if piece.startswith("*"):
            fixed.append("")
        elif piece == "?":
            fixed[-1] += "[^/]"
        elif piece.startswith("[") and piece.endswith("]"):
            negated = piece[1] in "!^"
            members = re.sub(r"([\[\]\\&~|^])", r"\\\1", piece[1 + negated : -1])
            fixed[-1] += f"(?!/)[{'^' if negated else ''}{members}]"
        else:
            fixed[-1] += re.escape(piece[1] if len(piece) == 2 and piece[0] == "\\" else piece)
    first, *rest = fixed
    if not rest:
        return first
    *middle, last = rest
    return first + "".join(f"(?>[^/]*?{one})" for one in middle) + f"[^/]*{last}"
