"""Fifty sessions at work at once, under a daemon that is killed again and again."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheish.store.records import Record
from tests.daemon_process import Json, bash, text
from tests.faults import oracles
from tests.faults.life import Life
from tests.faults.scene import first

pytestmark = pytest.mark.slow

SESSIONS = tuple(f"s{number:02}" for number in range(50))
KILLS = 4
SEED = 1
RECORDS_MIN = 1_000
"""Fewer than the crowd leads to."""
TIMEOUT_S = 60.0
COUNT = "echo $KHEISH_TOOL_CALL_ID >> count.log"
ASKED = f"{COUNT}; echo asked"
SCRIPT = (bash(COUNT), bash(ASKED), text("one is done"), bash(ASKED), bash(COUNT), text("both are done"))
CONFIG = f'[permissions]\nallow = ["bash({COUNT})"]\n'


class Crowd(Life):
    """In each session two runs with a command that is allowed and one that a human allows. The daemon is killed when so
    many records were seen, which a seed chooses."""

    sessions = uncertain_sessions = SESSIONS

    def prepare(self) -> None:
        (self.daemon.config / "config.toml").write_text(CONFIG)
        self.daemon.script(*SCRIPT)

    async def play(self) -> None:
        killing = asyncio.ensure_future(self._kill_at(sorted(random.Random(SEED).sample(range(RECORDS_MIN), KILLS))))
        await asyncio.gather(*(self._work(session_id) for session_id in self.sessions))
        await killing

    async def _kill_at(self, moments: list[int]) -> None:
        for records in moments:
            while len(self.seen[""]) < records:
                await self._news.wait()
            await self._is_up.wait()
            assert self._process is not None
            self._process.kill()
            await self._process.wait()

    async def _work(self, session_id: str) -> None:
        await self.create(session_id)
        runs = [await self.submit(session_id, f"{session_id} {number}") for number in range(2)]
        for run_id in runs:
            request = await self.until(session_id, lambda facts, id_=run_id: asked_of(id_, facts))
            await self.resolve(request["request_id"], "allow", session_id)
            await self.until(session_id, lambda facts, id_=run_id: first("run.completed", facts, run_id=id_))


def asked_of(run_id: str, facts: list[Json]) -> Json | None:
    """The approval of a command that had not started."""
    asked = [fact for fact in facts if fact.get("kind") != "uncertain"]
    return first("approval.requested", asked, run_id=run_id)


def check_effects(life: Life, journals: dict[str, list[Record]]) -> Iterator[str]:
    """Each command ran at most once, and not at all only where that was told to be in doubt."""
    ran = Counter((life.daemon.work / "count.log").read_text().split())
    yield from (f"{tool_call_id} ran {count} times" for tool_call_id, count in ran.items() if count > 1)
    facts = [fact for records in journals.values() for fact in oracles.facts_of(records)]
    named: dict[str, set[str]] = {
        type_: {fact["tool_call_id"] for fact in facts if fact["type"] == type_}
        for type_ in ("tool_call.started", "tool_call.completed", "tool_call.became_uncertain")
    }
    started, completed, uncertain = named.values()
    yield from (f"{tool_call_id} ran without a start" for tool_call_id in ran.keys() - started)
    yield from (
        f"{tool_call_id} did not run, and nobody was told" for tool_call_id in completed - ran.keys() - uncertain
    )
    if len(completed) != len(SESSIONS) * sum("tool_calls" in reply for reply in SCRIPT):
        yield f"{len(completed)} commands have an outcome"


def test_fifty_sessions_end_as_they_should_though_their_daemon_is_killed_again_and_again(short_path: Path) -> None:
    life = Crowd(short_path, timeout_s=TIMEOUT_S)
    asyncio.run(life.live())
    assert oracles.judge(life, effects=check_effects) == []
    assert life.deaths == KILLS
    for session_id in SESSIONS:
        runs = life.final[session_id]["runs"]
        assert [(run["status"], run["outputs"][-1]) for run in runs] == [
            ("completed", "both are done"),
            ("completed", "one is done"),
        ]
