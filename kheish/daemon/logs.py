"""The daemon's log: one JSON object a line, private, bounded, never in the way of the event loop."""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import os
import queue
import time
from collections.abc import Iterator
from pathlib import Path

from kheish.limits import LOG_BYTES_MAX, LOG_FILES_KEPT

_FIELDS = ("version", "generation", "pid", "session_id", "run_id")


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        row: dict[str, object] = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "target": record.name,
            "message": record.getMessage(),
        }
        row.update({name: getattr(record, name) for name in _FIELDS if hasattr(record, name)})
        if record.exc_info:
            row["trace"] = self.formatException(record.exc_info)
        return json.dumps(row, ensure_ascii=False, default=str)


class _PrivateFile(logging.handlers.RotatingFileHandler):
    def _open(self):  # type: ignore[no-untyped-def]
        # A FIFO in its place that nobody reads is refused, not waited for.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK
        return open(os.open(self.baseFilename, flags, 0o600), "a", encoding="utf-8")


@contextlib.contextmanager
def to_file(path: Path) -> Iterator[None]:
    """Everything that is logged within goes to this file, written by a thread."""
    file = _PrivateFile(path, maxBytes=LOG_BYTES_MAX, backupCount=LOG_FILES_KEPT)
    file.setFormatter(JsonLines())
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = logging.handlers.QueueHandler(lines)
    listener = logging.handlers.QueueListener(lines, file)
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    for noisy in ("httpx", "httpcore", "anthropic", "openai", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    root.addHandler(handler)
    listener.start()
    try:
        yield
    finally:
        root.removeHandler(handler)
        listener.stop()
        file.close()
