"""Files that a text may mention as `@path`, and images that a person pastes. These functions block: call them in a
thread."""

from __future__ import annotations

import base64
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from kheish.errors import Invalid
from kheish.limits import MIB, REQUEST_BODY_BYTES_MAX, SHOWN_ATTACHMENT_BYTES_MAX
from kheish.terminal import one_line

if TYPE_CHECKING:
    from kheish.client import InputAttachment

FILES_MAX = 20_000
_FOLDERS_MAX = 5_000
_GIT_TIMEOUT_S = 10.0
_PATH_CHARS_MAX = 4_096
_SKIPPED = frozenset((".git", ".hg", ".svn", "node_modules", "__pycache__", ".venv", ".mypy_cache", ".ruff_cache"))

MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
}
IMAGE_BYTES_MAX = min(SHOWN_ATTACHMENT_BYTES_MAX, (REQUEST_BODY_BYTES_MAX - MIB // 4) * 3 // 4)
"""What a model is shown, and what a request carries as base64 beside a text."""

MENTION = re.compile(r'(?:^|(?<=\s))@(?:"(?P<quoted>[^"]*)|(?P<plain>[^\s"]*))$')
"""At the end of what stands before the cursor."""


def list_files(directory: str) -> list[str]:
    """The files below a directory and the folders that hold them (which end with `/`), without what git ignores."""
    try:
        files = _git_files(directory)
    except (OSError, subprocess.SubprocessError):
        files = _walk(directory)
    folders = {file[: i + 1] for file in files for i, c in enumerate(file) if c == "/"}
    return sorted({*files, *folders}, key=lambda name: (name.count("/"), name))


def _git_files(directory: str) -> list[str]:
    """Raises SubprocessError where there is no repository."""
    done = subprocess.run(
        ["git", "-C", directory, "ls-files", "-coz", "--exclude-standard"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=_GIT_TIMEOUT_S,
    )
    names = done.stdout.split(b"\0")[:FILES_MAX]
    return [os.fsdecode(name) for name in names if name]


def _walk(directory: str) -> list[str]:
    found: list[str] = []
    for seen, (folder, folders, files) in enumerate(os.walk(directory)):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED)
        prefix = os.path.relpath(folder, directory)
        found += [name if prefix == "." else f"{prefix}/{name}" for name in sorted(files)]
        if len(found) >= FILES_MAX or seen >= _FOLDERS_MAX:
            break
    return found[:FILES_MAX]


def mention(path: str) -> str:
    """How a text names a path. That of a folder is left open, so that one can go on within it."""
    is_folder = path.endswith("/")
    if re.search(r"\s", path):
        return f'@"{path}' if is_folder else f'@"{path}" '
    return f"@{path}" if is_folder else f"@{path} "


def may_be_image(pasted: str) -> bool:
    """Whether it is worth a look at the disk."""
    text = pasted.strip()
    return len(text) < _PATH_CHARS_MAX and "\n" not in text and _suffix(text.rstrip("'\"")) in MEDIA_TYPES


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def image_path(pasted: str, directory: str) -> str:
    """The image that a pasted text names and nothing else, as terminals write a file that is dropped on them: quoted,
    with backslashes, or as a URL. "" where there is none."""
    text = pasted.strip()
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    elif not os.path.exists(os.path.join(directory, text)):
        try:
            words = shlex.split(text)
        except ValueError:
            return ""
        text = words[0] if len(words) == 1 else ""
    path = os.path.join(directory, os.path.expanduser(text))
    return path if text and _suffix(path) in MEDIA_TYPES and os.path.isfile(path) else ""


def read_image(path: str) -> InputAttachment:
    """Raises Invalid."""
    name = os.path.basename(path)
    try:
        with Path(path).open("rb") as file:
            data = file.read(IMAGE_BYTES_MAX + 1)
    except OSError as error:
        raise Invalid(f"cannot attach {one_line(name)}: {error.strerror}") from error
    if len(data) > IMAGE_BYTES_MAX:
        room = f"{IMAGE_BYTES_MAX / MIB:.1f} MiB"
        raise Invalid(f"cannot attach {one_line(name)}: it is over {room}; make it smaller, or name its path in words")
    media_type = MEDIA_TYPES[_suffix(name)]
    return {"file_name": name, "media_type": media_type, "content_base64": base64.b64encode(data).decode()}
