from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.providers.wire_server import WireServer


@pytest.fixture
async def server() -> AsyncIterator[WireServer]:
    async with WireServer().running() as running:
        yield running
