"""No test in this folder needs a daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kheish.client import launch


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A state root without a daemon, and nobody who would start one."""

    def refuse(*arguments: object) -> None:
        raise AssertionError("a daemon was about to be started")

    monkeypatch.setattr(launch, "start_daemon", refuse)
    monkeypatch.setenv("KHEISH_STATE_ROOT", str(tmp_path / "state"))
    monkeypatch.setenv("KHEISH_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("KHEISH_SOCKET", raising=False)
    yield
