"""Ways to break the daemon, so that the harness can be seen to go red.

Those that a death reveals are seen in what comes after it, a missing sync in the list of the calls.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from kheish.core import approvals, commands, machine, recovery, runs
from kheish.core.events import ToolCallDied
from kheish.daemon import wiring
from kheish.runtime import actor, residents
from kheish.store import atomic, blobs, committer, journal, locks, session_dir
from kheish.tools import bash


def _replace(owner: object, name: str, value: object) -> None:
    assert hasattr(owner, name), name
    setattr(owner, name, value)


_WORK = "state/sessions/work/journal-0000000000"
_SIDE = "state/sessions/side/journal-0000000000"


class Mutant(NamedTuple):
    """A death at some of the `points` of the scene, which are given as a pattern (`fnmatch`), reveals it; `shows` is in
    what is then found. Which point does depends on what the threads of the daemon were at."""

    breaks: str
    shows: str
    points: str
    apply: Callable[[], None]


def _acknowledge_early() -> None:
    append, commit, close = committer.Committer.append, committer._commit, actor.Actor.close

    def append_early(self: Any, journal: Any, framed: Any, tell: Callable[[None], None]) -> None:
        if framed.seq == 1:  # a session that nobody can follow yet would break off the scene
            append(self, journal, framed, tell)
            return
        append(self, journal, framed, lambda error: None)
        asyncio.get_running_loop().call_soon(tell, None)

    def commit_late(journal: Any, batch: Any) -> None:
        time.sleep(0.05)
        commit(journal, batch)

    async def close_late(self: Any) -> None:
        await asyncio.sleep(0.2)
        await close(self)

    async def no_checkpoint(self: Any) -> None:
        self._checkpointing = None

    _replace(committer.Committer, "append", append_early)
    _replace(committer, "_commit", commit_late)
    _replace(journal.Journal, "locate", lambda self, seq: self._durable)
    _replace(actor.Actor, "close", close_late)
    _replace(actor.Actor, "_save_checkpoint", no_checkpoint)


def _append_after_torn_tail() -> None:
    _replace(session_dir, "repair", lambda directory, torn, seq: None)
    _replace(journal, "_WRITE_FLAGS", journal._WRITE_FLAGS | os.O_APPEND)


def _open_gate_early() -> None:
    start, open_gate = bash.Running.__init__, bash.Running.open_gate

    def start_and_go(self: Any, *arguments: Any) -> None:
        start(self, *arguments)
        open_gate(self)

    _replace(bash.Running, "__init__", start_and_go)
    _replace(bash.Running, "open_gate", lambda self: None)


def _forget_keys() -> None:
    _replace(runs, "remember_key", lambda *arguments: None)


def _repeat_unsafe() -> None:
    def again(draft: Any, run: Any, was_stopped: bool) -> None:
        for call in run.calls:
            if call.phase == "started":
                draft.emit(ToolCallDied(run_id=run.run_id, tool_call_id=call.tool_call_id, attempt=call.attempt))

    _replace(recovery, "_recover_tool_calls", again)


def _leave_orphans() -> None:
    async def nothing(*arguments: Any) -> bool:
        return False

    _replace(wiring, "end_tree", nothing)


def _ask_again() -> None:
    recover = recovery.recover

    def recover_and_ask(draft: Any, command: Any) -> str:
        result = recover(draft, command)
        for approval in list(draft.state.approvals.values()):
            approvals.reissue(draft, approval)
        return result

    machine.COMMANDS[commands.Recover] = recover_and_ask


def _same_generation() -> None:
    async def stay(self: Any, generation: int) -> None:
        pass

    _replace(locks.DaemonLock, "_last_generation", lambda self: 0)
    _replace(residents.Residents, "rise_above", stay)


def _skip_data_sync() -> None:
    _replace(atomic, "sync_data", lambda fd: None)


def _skip_dir_sync() -> None:
    for module in (atomic, blobs):
        _replace(module, "sync_dir", lambda path: None)
    _replace(locks, "sync_names", lambda fd: None)


def _rename_unsynced() -> None:
    for module in (atomic, blobs):
        _replace(module, "sync_file", lambda fd: None)


_ANY = f"fdatasync:{_WORK}08*:after"
MUTANTS = {
    "acknowledge_early": Mutant(
        "a record is acknowledged, published and acted on before it is written",
        "no longer waits after a restart",
        f"write:{_WORK}*:before",
        _acknowledge_early,
    ),
    "append_after_torn_tail": Mutant(
        "a torn tail is not cut, and records follow it",
        "checksum",
        f"write:{_WORK}*:torn_half",
        _append_after_torn_tail,
    ),
    "open_gate_early": Mutant(
        "a command runs before its start is durable",
        "times and its start is",
        f"write:{_WORK}*:before",
        _open_gate_early,
    ),
    "forget_keys": Mutant(
        "idempotency keys are not part of the state",
        "was applied 2 times",
        f"fdatasync:{_WORK}*:after",
        _forget_keys,
    ),
    "repeat_unsafe": Mutant(
        "a started unsafe call is run again after a death",
        "which is unsafe, was started 2 times",
        f"write:{_WORK}*:before",
        _repeat_unsafe,
    ),
    "leave_orphans": Mutant(
        "processes of a dead daemon live on",
        "is left: ",
        f"write:{_SIDE}*:before",
        _leave_orphans,
    ),
    "ask_again": Mutant("what waits for a human gets another id at each start", "approval_", _ANY, _ask_again),
    "same_generation": Mutant("the generation does not grow", "generation 1 after 1", _ANY, _same_generation),
    "skip_data_sync": Mutant("records are not synced", "was owed", _ANY, _skip_data_sync),
    "skip_dir_sync": Mutant("the names of new files are not synced", "was owed", _ANY, _skip_dir_sync),
    "rename_unsynced": Mutant("a file gets its name before its bytes are synced", "was owed", _ANY, _rename_unsynced),
}
