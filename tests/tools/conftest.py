from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools.workplace import Workplace


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path.resolve())


@pytest.fixture
def unprivileged() -> Iterator[Workplace]:
    """A workplace whose file modes hold, also where the tests run as root."""
    folder = Path(tempfile.mkdtemp(prefix="kheish-test-")).resolve()
    is_root = os.geteuid() == 0
    try:
        if is_root:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        yield Workplace(folder)
    finally:
        if is_root:
            os.seteuid(0)
        else:
            for directory, _, _ in os.walk(folder):
                os.chmod(directory, 0o700)
        shutil.rmtree(folder)
