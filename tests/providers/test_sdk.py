"""Loading an SDK leaves the interpreter as it was and the event loop free."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading

import pytest

from kheish.providers import sdk

FIRST_CALL = """
import asyncio, threading
import pydantic
from tests.providers.requests import make_request, read
from tests.providers.wire_server import Answer, WireServer
from tests.providers.wires import WIRES, asked, said, thought

loop_thread = threading.current_thread()
built = []
rebuild, adapt = pydantic.BaseModel.model_rebuild.__func__, pydantic.TypeAdapter.__init__

def note(what):
    if threading.current_thread() is loop_thread:
        built.append(str(what))

def watched_rebuild(cls, *arguments, **options):
    note(cls.__qualname__)
    return rebuild(cls, *arguments, **options)

def watched_adapt(self, type_, *arguments, **options):
    note(type_)
    return adapt(self, type_, *arguments, **options)

pydantic.BaseModel.model_rebuild = classmethod(watched_rebuild)
pydantic.TypeAdapter.__init__ = watched_adapt

async def main():
    async with WireServer().running() as server:
        for wire in WIRES:
            provider = await wire.connect(server.url)
            for text in (b"", b'"logprobs"'):
                stream = wire.stream(thought("hm"), said("x"), asked("bash", {}))
                server.play(Answer([event.replace(text, b'"was"') if text else event for event in stream]))
                await read(provider, make_request())
            print(wire.driver, len(built), *(what[:40].replace(" ", "") for what in built))
            built.clear()

asyncio.run(main())
"""


def test_the_first_events_of_a_stream_find_the_models_of_the_sdk_built() -> None:
    """Building them takes up to a second, and it would be one of the event loop. One or two small ones do no harm."""
    done = subprocess.run([sys.executable, "-c", FIRST_CALL], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    built = {line.split()[0]: line.split()[2:] for line in done.stdout.splitlines()}
    assert built.keys() == {"anthropic", "openai", "openai_compatible"}
    assert {driver: models for driver, models in built.items() if len(models) > 2} == {}


async def test_what_loads_runs_in_a_thread_and_returns_what_it_made() -> None:
    assert await sdk.load(threading.get_ident) != threading.get_ident()


async def test_loading_leaves_the_interpreter_as_it_was() -> None:
    def look() -> tuple[bool, float]:
        return gc.isenabled(), sys.getswitchinterval()

    def fail() -> None:
        raise ImportError("there is none")

    sys.setswitchinterval(0.005)
    before = look()
    while_loading = await asyncio.gather(*[sdk.load(look) for _ in range(4)])
    assert [(collects, round(interval, 6)) for collects, interval in while_loading] == [(False, 0.001)] * 4
    assert look() == before
    with pytest.raises(ImportError):
        await sdk.load(fail)
    assert look() == before
    gc.disable()
    try:
        await sdk.load(look)
        assert not gc.isenabled()
    finally:
        gc.enable()
