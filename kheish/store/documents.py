"""Small JSON documents that are replaced as a whole: `{"v":1,"document":...,"sum":"..."}`, one sealed line.

A document that does not pass its checks is an error, never an empty one (pueue starts empty there, and loses all).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from kheish.errors import Corrupt
from kheish.store.atomic import read_file, replace_file
from kheish.store.framing import check_seal, seal
from kheish.store.upgrades import FORMAT, check_format

T = TypeVar("T")


class _Envelope(msgspec.Struct):
    v: int
    document: msgspec.Raw


def write_document(path: Path, value: Any) -> None:
    """Replace the document at `path` with anything msgspec can encode; durable on return."""
    line, _ = seal(b'{"v":%d,"document":%b}' % (FORMAT, msgspec.json.encode(value)))
    replace_file(path, line)


def read_document(path: Path, type: type[T]) -> T:
    """The document at `path`. Raises FileNotFoundError, Corrupt or NewerFormat."""
    line = read_file(path)
    if check_seal(line) is None:
        raise _corrupt(path, "checksum")
    try:
        envelope = msgspec.json.decode(line, type=_Envelope)
        check_format(envelope.v, str(path))
        return msgspec.json.decode(envelope.document, type=type)
    except (UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise _corrupt(path, str(error)) from error


def _corrupt(path: Path, reason: str) -> Corrupt:
    return Corrupt(
        f"cannot read {path}: {reason} does not hold; move the file aside or restore it from a backup",
        code="document_corrupt",
        file=str(path),
        line=1,
        offset=0,
        reason=reason,
    )
