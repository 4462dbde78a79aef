"""What a person wrote before, and what is not sent yet: private files of the TUI, in the state root's `tui/`.

    history.jsonl          one input a line, the newest last; bounded
    drafts/<session id>    the unsent text of a session

They are a convenience: what cannot be read or written is left out, and nobody is told.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import msgspec

from kheish import paths
from kheish.limits import KIB, MIB
from kheish.store.atomic import make_private_dir, replace_file, write_all

INPUTS_KEPT = 1_000
INPUT_BYTES_MAX = 64 * KIB
"""A longer one is remembered while the TUI runs."""
_FILE_BYTES_MAX = 4 * MIB
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class Written(msgspec.Struct, frozen=True):
    """A text as it stands in the composer; `pasted` has what its placeholders stand for."""

    text: str
    pasted: dict[str, str] = {}
    session_id: str = ""
    cwd: str = ""


class History:
    """Of all sessions. `remember`, `earlier` and `found` touch no file; call the others in a thread."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory or paths.state_root() / "tui"
        self._inputs: list[Written] = []
        self._lock = threading.Lock()

    @property
    def _file(self) -> Path:
        return self._directory / "history.jsonl"

    def load(self) -> None:
        """What was written in any session, also by another TUI since."""
        with self._lock:
            lines, is_whole = self._read()
            inputs = [written for line in lines if (written := _decode(line)) is not None]
            if not is_whole or len(inputs) < len(lines) or len(inputs) > 2 * INPUTS_KEPT:
                with contextlib.suppress(OSError):
                    kept = inputs[-INPUTS_KEPT:]
                    replace_file(self._file, b"".join(msgspec.json.encode(one) + b"\n" for one in kept))
            self._inputs = inputs[-INPUTS_KEPT:]

    def _read(self) -> tuple[list[bytes], bool]:
        """The newest lines, and whether they are all."""
        try:
            with self._file.open("rb") as file:
                over = file.seek(0, os.SEEK_END) - _FILE_BYTES_MAX
                file.seek(max(0, over))
                lines = file.read(_FILE_BYTES_MAX).splitlines()
        except OSError:
            return [], True
        return (lines[1:], False) if over > 0 else (lines, True)

    def remember(self, written: Written) -> None:
        self._inputs = [*self._inputs[1 - INPUTS_KEPT :], written]

    def write(self, written: Written) -> None:
        """Also for later lives."""
        line = msgspec.json.encode(written) + b"\n"
        if len(line) > INPUT_BYTES_MAX:
            return
        with self._lock, contextlib.suppress(OSError):
            make_private_dir(self._directory)
            fd = os.open(self._file, _APPEND, 0o600)
            try:
                write_all(fd, line)
            finally:
                os.close(fd)

    def earlier(self, session_id: str, cwd: str) -> list[Written]:
        """The inputs of a session and of its directory, the oldest first, none twice in a row."""
        mine = [one for one in self._inputs if one.session_id == session_id or (cwd and one.cwd == cwd)]
        return [one for i, one in enumerate(mine) if i == 0 or one.text != mine[i - 1].text]

    def found(self, query: str, count: int) -> list[Written]:
        """The inputs that hold all words of a query, the newest first, each once."""
        words = query.lower().split()
        newest = {one.text: one for one in self._inputs}
        seen = dict.fromkeys(one.text for one in reversed(self._inputs))
        return [newest[text] for text in seen if all(word in text.lower() for word in words)][:count]

    # -- drafts --------------------------------------------------------------------------------------------------

    def draft(self, session_id: str) -> Written | None:
        try:
            return _decode(self._draft(session_id).read_bytes())
        except OSError:
            return None

    def keep_draft(self, session_id: str, draft: Written) -> None:
        """Replaces it; an empty one is none."""
        with self._lock, contextlib.suppress(OSError):
            path = self._draft(session_id)
            if draft.text:
                make_private_dir(path.parent)
                replace_file(path, msgspec.json.encode(draft))
            else:
                path.unlink(missing_ok=True)

    def _draft(self, session_id: str) -> Path:
        return self._directory / "drafts" / session_id


def _decode(line: bytes) -> Written | None:
    try:
        return msgspec.json.decode(line, type=Written)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
