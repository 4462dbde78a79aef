from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.providers.wire_server import WireServer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_server() -> AsyncIterator[WireServer]:
    async with WireServer().running() as running:
        yield running


@pytest.fixture
def server(running_server: WireServer) -> WireServer:
    """The server of a module whose tests share an event loop; it has forgotten what was before."""
    running_server.play()
    return running_server
