"""What a call of a file tool would make of the file that is on the disk now."""

from __future__ import annotations

import os
import stat
from typing import Any, NamedTuple

from kheish.limits import TOOL_INPUT_BYTES_MAX
from kheish.tui.diff import unified


class Preview(NamedTuple):
    """A unified diff, and what else there is to know; the diff is of the texts alone where the file tells nothing."""

    diff: str
    note: str


def change(tool: str, arguments: dict[str, Any], cwd: str) -> Preview | None:
    """None for tools that change no file, and for arguments that are none of theirs. Reads the file."""
    names = {"write_file": ("path", "content"), "edit_file": ("path", "old_text", "new_text")}.get(tool)
    if names is None or not all(isinstance(arguments.get(name), str) for name in names):
        return None
    path = arguments["path"]
    old, problem = _read(os.path.join(cwd, path))
    if tool == "write_file":
        new = arguments["content"]
        note = problem or ("there is no such file yet" if old is None else "it changes nothing" if old == new else "")
        return Preview(unified(path, "" if problem else old, new), note)
    before, after = arguments["old_text"], arguments["new_text"]
    if old is None:
        problem = problem or "there is no such file"
    else:
        if before not in old and "\r\n" in old:
            before, after = (text.replace("\r\n", "\n").replace("\n", "\r\n") for text in (before, after))
        count = old.count(before) if before else 0
        if count == 1 or (count and arguments.get("replace_all") is True):
            return Preview(unified(path, old, old.replace(before, after)), f"{count} times" if count > 1 else "")
        problem = f"the text to replace stands in it {count} times" if count else "the text to replace is not in it"
    return Preview(unified(path, arguments["old_text"], arguments["new_text"]), f"{problem}: the edit will fail")


def _read(path: str) -> tuple[str | None, str]:
    """(text, what is wrong)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError) as error:
        return None, f"it cannot be read: {getattr(error, 'strerror', '') or error}"
    with os.fdopen(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            return None, "it is no regular file"
        if about.st_size > TOOL_INPUT_BYTES_MAX:
            return None, f"it has {about.st_size} bytes, too many to compare"
        return file.read().decode("utf-8", "replace"), ""
