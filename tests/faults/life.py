"""One life of the scene: the daemon is started, killed by its fault, started again, until all is over.

Three parties: the keeper starts the daemon whenever it died, the human plays the scene and repeats what was not
acknowledged, and the followers (one a session, one of everything) read on from their last id. What they saw is what
the oracles judge.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from kheish.client import AsyncKheish, StreamEvent
from kheish.client.errors import ApiError, DaemonUnreachable
from tests.daemon_process import DaemonProcess, Json
from tests.faults import scene

T = TypeVar("T")
REPOSITORY = Path(__file__).parents[2]
LIFE_TIMEOUT_S = 60.0
POLL_S = 0.005


class Violation(Exception):
    """Something that was promised did not hold."""


class GivenUp(Exception):
    """The daemon has died in one model call as often as it is made: what the scene waits for will not come."""


class Ack(NamedTuple):
    """A command that was acknowledged: `event` with these fields is in the journal, and once the key."""

    session_id: str
    key: str
    event: str
    fields: Json


class Life:
    """`plans` are the faults of the first starts, as arguments of the launcher; later starts have none. `watcher` is a
    command that runs the daemon and passes on how it ended."""

    sessions: Sequence[str] = scene.SESSIONS
    uncertain_sessions: Sequence[str] = ("work", "last")
    """Where a death may leave a command in doubt that a human had approved."""

    def __init__(
        self,
        folder: Path,
        *plans: Iterable[str],
        mutant: str = "",
        watcher: Sequence[str] = (),
        timeout_s: float = LIFE_TIMEOUT_S,
    ) -> None:
        self.daemon = DaemonProcess(folder)
        self.folder = folder
        self.client = AsyncKheish(self.daemon.socket, origin="test", start=False)
        self.acks: list[Ack] = []
        self.violations: list[str] = []
        self.seen: dict[str, list[StreamEvent]] = {}
        """Records as the followers saw them, by session; "" is the follower of everything."""
        self.facts: dict[str, list[Json]] = {name: [] for name in self.sessions}
        self.generations: list[int] = []
        self.deaths = 0
        self.gave_up = False
        """The scene was left early, since a model call was given up."""
        self.final: Json = {}
        self._plans = [list(plan) for plan in plans]
        self._watcher = watcher
        self._timeout_s = timeout_s
        self._mutant = ["--mutant", mutant] if mutant else []
        self._decided: set[str] = set()
        self._process: asyncio.subprocess.Process | None = None
        self._is_up = asyncio.Event()
        self._is_over = False
        self._news = asyncio.Event()
        self._attendants: list[asyncio.Task[None]] = []

    @property
    def log(self) -> Path:
        return self.folder / "calls.log"

    def prepare(self) -> None:
        """What is there before the first start."""
        scene.prepare(self.daemon)

    async def play(self) -> None:
        """The human."""
        await scene.play(self)

    async def live(self) -> None:
        """From the first start to the last polite end; what went wrong on the way is in `violations`."""
        self.prepare()
        try:
            async with asyncio.timeout(self._timeout_s), asyncio.TaskGroup() as self._parties:
                keeper = self._parties.create_task(self._keep())
                self._parties.create_task(self._play())
                for session_id in self.uncertain_sessions:
                    self._attendants.append(self._parties.create_task(self._verify_uncertain(session_id)))
                await keeper
                for attendant in self._attendants:
                    attendant.cancel()
        except* TimeoutError:
            self.violations.append(f"the scene did not end within {self._timeout_s:.0f} s")
        except* (Violation, ApiError) as group:
            self.violations += [str(violation) for violation in group.exceptions]
        finally:
            if self._process is not None and self._process.returncode is None:
                self._process.kill()
                await self._process.wait()

    async def _play(self) -> None:
        await self._is_up.wait()
        self._follow("")
        try:
            await self.play()
        except GivenUp:
            self.gave_up = True
            await self._leave()
        self._is_over = True
        if self._is_up.is_set():
            await self._finish()

    async def _leave(self) -> None:
        """Ends what was begun."""
        self.sessions = [session_id for session_id in self.sessions if session_id in self.seen]
        for session_id in self.sessions:
            if not scene.first("session.ended", self.facts[session_id]):
                await self.end(session_id)
        for session_id in self.sessions:
            await self.until(session_id, lambda facts: scene.first("session.ended", facts) and not scene.living(facts))

    async def _finish(self) -> None:
        """A last look, and the daemon is told to stop. Where it dies in doing so, the next one is told again."""
        with contextlib.suppress(DaemonUnreachable, ProcessLookupError):
            pid = (await self.client.daemon.status())["pid"]
            final = await self._observe()
            for session_id in self.sessions:
                await self._read_to(session_id, final[session_id]["seq"])
            self.final = final
            os.kill(pid, signal.SIGTERM)

    # -- the keeper ----------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            process = self._process = await self._start()
            if await self._await_ready(process):
                await self._look_around()
                self._is_up.set()
                if self._is_over:
                    self._parties.create_task(self._finish())
            status = await process.wait()
            self._is_up.clear()
            if self._is_over and status == 0:
                return
            if status != -signal.SIGKILL:
                raise Violation(f"the daemon left with status {status}: {self._said()}")
            self.deaths += 1

    async def _start(self) -> asyncio.subprocess.Process:
        plan = self._plans.pop(0) if self._plans else []
        with (self.folder / "said.log").open("ab") as said:
            return await asyncio.create_subprocess_exec(
                *self._watcher,
                sys.executable,
                "-m",
                "tests.faults.daemon",
                "--log",
                os.fspath(self.log),
                *plan,
                *self._mutant,
                env={**self.daemon.env, "PYTHONPATH": os.fspath(REPOSITORY)},
                cwd="/",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )

    async def _await_ready(self, process: asyncio.subprocess.Process) -> bool:
        """Whether the daemon came to serve; it may die before."""
        while process.returncode is None:
            with contextlib.suppress(DaemonUnreachable, ApiError):
                await self.client.daemon.status()
                return True
            await asyncio.sleep(POLL_S)
        return False

    async def _look_around(self) -> None:
        """What holds at each start: the generation has grown, and what waited still waits, under the same id."""
        waiting = self._waiting()
        try:
            status = await self.client.daemon.status()
            inbox = await self.client.daemon.inbox()
        except DaemonUnreachable:
            return
        if self.generations and status["generation"] <= self.generations[-1]:
            raise Violation(f"generation {status['generation']} after {self.generations[-1]}")
        self.generations.append(status["generation"])
        there = {item["request_id"]: item for item in (*inbox["approvals"], *inbox["questions"])}
        for request in waiting:
            item = there.get(request["request_id"])
            if item is None:
                raise Violation(f"{request['request_id']} no longer waits after a restart")
            if item.get("digest", "") != request.get("digest", ""):
                raise Violation(f"{request['request_id']} has another digest after a restart")

    def _waiting(self) -> list[Json]:
        """Approvals and questions that were seen, that nothing settled and that nobody tried to decide."""
        waiting: dict[str, Json] = {}
        for facts in self.facts.values():
            for fact in facts:
                noun, _, verb = fact["type"].partition(".")
                if noun in ("approval", "question"):
                    waiting.pop(fact["request_id"], None)
                    if verb == "requested":
                        waiting[fact["request_id"]] = fact
        return [request for id_, request in waiting.items() if id_ not in self._decided]

    def _said(self) -> str:
        said = self.folder / "said.log"
        return said.read_text("utf-8", "replace")[-2000:] if said.exists() else ""

    # -- the followers -------------------------------------------------------------------------------------------

    def _follow(self, session_id: str) -> None:
        self.seen[session_id] = []
        self._attendants.append(self._parties.create_task(self._follower(session_id)))

    async def _follower(self, session_id: str) -> None:
        where = {"session_id": session_id} if session_id else {"cursor": "0.0"}
        try:
            async for event in self.client.events(**where):
                if event.event != "record":
                    continue
                self.seen[session_id].append(event)
                if session_id:
                    self.facts[session_id] += event.data["events"]
                self._news.set()
                self._news = asyncio.Event()
        except (ApiError, DaemonUnreachable) as error:
            raise Violation(f"the follower of {session_id or 'everything'} was turned away: {error}") from error

    async def _read_to(self, session_id: str, seq: int) -> None:
        """Until both followers have seen this record."""

        def is_there() -> bool:
            mine = any(int(event.id) >= seq for event in self.seen[session_id])
            return mine and any(
                event.data["session_id"] == session_id and event.data["seq"] >= seq for event in self.seen[""]
            )

        while not is_there():
            await self._news.wait()

    async def until(
        self, session_id: str, find: Callable[[list[Json]], T | None], *, look_every_s: float | None = None
    ) -> T:
        """Until the facts of a session answer; raises GivenUp. Where `find` also looks at the world beside them, it has
        to look now and then."""
        while True:
            news = self._news
            if found := find(self.facts[session_id]):
                return found
            if not self.gave_up and scene.is_given_up(self.facts[session_id]):
                raise GivenUp
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(look_every_s):
                    await news.wait()

    async def until_put_away(self) -> None:
        """Until the daemon holds no session in memory."""
        while (await self.ask(self.client.daemon.status))["sessions"]["loaded"]:
            await asyncio.sleep(POLL_S)

    # -- the human's hands ---------------------------------------------------------------------------------------

    async def ask(self, request: Callable[[], Awaitable[T]]) -> T:
        """The answer, from whichever daemon gives it."""
        while True:
            await self._is_up.wait()
            try:
                return await request()
            except DaemonUnreachable:
                await asyncio.sleep(POLL_S)
            except ApiError as error:
                raise Violation(f"refused: {error.code}: {error.message}") from error

    async def create(self, session_id: str) -> None:
        await self.ask(lambda: self.client.sessions.create(session_id, cwd=str(self.daemon.work)))
        self.acks.append(Ack(session_id, "", "session.created", {"session_id": session_id}))
        self._follow(session_id)

    async def submit(self, session_id: str, content: str, **options: Any) -> str:
        key = f"submit {content}"
        run = await self.ask(lambda: self.client.sessions.submit(session_id, content, key=key, **options))
        event = "input.steered" if options.get("delivery") == "steer" else "run.submitted"
        self.acks.append(Ack(session_id, key, event, {"run_id": run["run_id"], "text": content}))
        return str(run["run_id"])

    async def resolve(self, request_id: str, resolution: str, session_id: str = "work", **options: Any) -> None:
        key = f"resolve {request_id}"
        self._decided.add(request_id)
        await self.ask(lambda: self.client.approvals.resolve(request_id, resolution, key=key, **options))
        fields = {"request_id": request_id, "resolution": resolution, **options}
        fields.pop("if_digest", None)
        self.acks.append(Ack(session_id, key, "approval.resolved", fields))

    async def answer(self, request_id: str, option: str) -> None:
        key = f"answer {request_id}"
        self._decided.add(request_id)
        answers = [{"question_id": "1", "selected_option_ids": [option]}]
        await self.ask(lambda: self.client.questions.answer(request_id, answers, key=key))
        self.acks.append(Ack("work", key, "question.answered", {"request_id": request_id}))

    async def cancel(self, session_id: str, run_id: str) -> None:
        await self.ask(lambda: self.client.runs.cancel(run_id, reason="enough"))
        self.acks.append(Ack(session_id, "", "run.cancelled", {"run_id": run_id, "reason": "enough"}))

    async def interrupt(self, session_id: str) -> None:
        await self.ask(lambda: self.client.sessions.interrupt(session_id, reason="stop"))
        self.acks.append(Ack(session_id, "", "run.interrupted", {"reason": "stop"}))

    async def end(self, session_id: str) -> None:
        await self.ask(lambda: self.client.sessions.end(session_id, reason="over"))
        self.acks.append(Ack(session_id, "", "session.ended", {"reason": "over"}))

    async def _verify_uncertain(self, session_id: str) -> None:
        """Whatever a death left in doubt is decided so that the model checks."""
        with contextlib.suppress(GivenUp):
            while True:
                request = await self.until(session_id, self._undecided_uncertain)
                await self.resolve(request["request_id"], "verify", session_id)

    def _undecided_uncertain(self, facts: list[Json]) -> Json | None:
        for fact in facts:
            is_uncertain = fact["type"] == "approval.requested" and fact.get("kind") == "uncertain"
            if not is_uncertain or fact["arguments"].get("command") in scene.LEFT_IN_DOUBT:
                continue
            if fact["request_id"] not in self._decided:
                return fact
        return None

    async def _observe(self) -> Json:
        """The state of all sessions as a client sees it."""
        state: Json = {}
        for session_id in self.sessions:
            session = await self.client.sessions.get(session_id)
            state[session_id] = {
                "seq": session["seq"],
                "session": session,
                "runs": await self.client.sessions.runs(session_id),
                "messages": (await self.client.sessions.transcript(session_id, first=0, limit=1000))["items"],
            }
        return state
