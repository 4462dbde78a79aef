from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.disk import disk
from tests.store.sessions import SESSION, Session

__all__ = ["disk"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A state root on a real file system."""
    return tmp_path / "state"


@pytest.fixture
def ram_root() -> Iterator[Path]:
    """A state root in memory, where there is one: for thousands of cases."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    path = Path(tempfile.mkdtemp(prefix="kheish-test-", dir=memory))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def session(root: Path) -> Iterator[Session]:
    """A new, open session."""
    made = Session.create(root, SESSION)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> int:
    """Three records to a segment."""
    monkeypatch.setattr("kheish.store.journal.SEGMENT_RECORDS_MAX", 3)
    return 3
