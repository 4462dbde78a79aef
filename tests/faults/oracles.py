"""What must hold when all is over, whatever happened on the way (the contract of DURABILITY: acknowledged is
recovered, effects at most once, waits keep their ids, followers see each record once in order, files are sound)."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from kheish.core.events import Rule
from kheish.core.state import State
from kheish.daemon.maintenance import blobs_of, verify
from kheish.errors import KheishError
from kheish.limits import MODEL_DEATHS_MAX
from kheish.runtime.fold import fold_records
from kheish.store.documents import read_document
from kheish.store.records import Record
from kheish.store.segments import Walk
from kheish.tools.processes import MARK, read_variable
from tests.daemon_process import Json
from tests.faults import scene
from tests.faults.debts import check_debts
from tests.faults.life import Life
from tests.faults.syscalls import read_log

EffectsCheck = Callable[[Life, dict[str, list[Record]]], Iterable[str]]

ORPHAN_TIMEOUT_S = 5.0
_UNSURE = "outcome of this call is unknown"


def summary(life: Life) -> Json:
    """The end of a life as far as every life shares it: what recovery may add or word otherwise is left out."""
    state: Json = {}
    for session_id in scene.SESSIONS:
        final = life.final[session_id]
        state[session_id] = {
            "status": final["session"]["status"],
            "runs": [
                {
                    "text": run["request"]["text_preview"],
                    "status": run["status"],
                    "outputs": run["outputs"],
                    "error": run["error"],
                    "step": run["step"] if run["status"] == "completed" else 0,
                    "attachments": run["input_attachments"],
                }
                for run in final["runs"]
            ],
            "messages": [_message(message) for message in final["messages"]],
        }
    files = sorted(path for path in life.daemon.work.rglob("*") if path.is_file() and path.name != "count.log")
    state["files"] = {str(path.relative_to(life.daemon.work)): path.read_text() for path in files}
    return state


def _message(message: Json) -> Json:
    """A message without its ids. What a command said depends on whether it was in doubt, and what write_file said on
    whether an earlier attempt had written; that there is one answer to each call does not."""
    text = message["text"]
    if message["tool"] in ("bash", "write_file"):
        text = "..."
    return {"role": message["role"], "text": text, "tool": message["tool"], "attachments": message["attachments"]}


def judge(life: Life, expected: Json | None = None, effects: EffectsCheck | None = None) -> list[str]:
    """Every promise that did not hold, in words; `expected` is the summary of an undisturbed life, `effects` looks
    after the commands of a life that does not play the scene."""
    found = list(life.violations)
    if not life.final:
        for pid in processes_of(life.daemon.state):
            os.kill(pid, signal.SIGKILL)
        return found or ["the scene did not end"]
    try:
        journals = {name: _read(life, name) for name in life.sessions}
    except KheishError as error:
        return [*found, error.message]
    found += _check_acknowledged(life, journals)
    found += (effects or _check_effects)(life, journals)
    found += _check_waits(journals)
    found += _check_followers(life, journals)
    found += _check_files(life, journals)
    found += _check_processes(life)
    found += check_debts(read_log(life.log), life.folder, _nameless_blobs(life, journals))
    if given_up := _given_up(journals):
        found += _check_given_up(given_up, journals)
    elif expected is not None and (ours := summary(life)) != expected:
        found.append("another end than in an undisturbed life: " + "; ".join(_differences(expected, ours)))
    return found


def _read(life: Life, session_id: str) -> list[Record]:
    return list(Walk(life.daemon.state / "sessions" / session_id, session_id))


def _nameless_blobs(life: Life, journals: dict[str, list[Record]]) -> set[str]:
    """Blobs, relative to the life's folder, whose writer died before it could name them in a record."""
    named = {sha256 for records in journals.values() for record in records for sha256 in blobs_of(record)}
    stored = [path for path in life.daemon.state.glob("blobs/*/*") if path.name not in named]
    return {str(place.relative_to(life.folder)) for path in stored for place in (path, path.parent)}


def facts_of(records: list[Record]) -> list[Json]:
    return [event for record in records for event in record.events]


def _check_acknowledged(life: Life, journals: dict[str, list[Record]]) -> Iterator[str]:
    """All of it is in the journal, and each key once, also where the human had to repeat the request."""
    for ack in life.acks:
        made = [
            record
            for record in journals[ack.session_id]
            for event in record.events
            if event["type"] == ack.event and all(event.get(name) == value for name, value in ack.fields.items())
        ]
        if len(made) != 1:
            yield f"acknowledged and {len(made)} times in the journal: {ack.event} {ack.fields}"
        elif ack.key and made[0].by.get("key") != ack.key:
            yield f"{ack.event} {ack.fields} has not the key of its request"
    keys = Counter(record.by["key"] for records in journals.values() for record in records if record.by.get("key"))
    yield from (f"the request {key!r} was applied {count} times" for key, count in keys.items() if count > 1)
    if any(ack.fields.get("remember") == "always" for ack in life.acks):
        rules = life.daemon.state / "daemon" / "permissions.json"
        patterns = [rule.pattern for rule in read_document(rules, list[Rule])] if rules.exists() else []
        if patterns != [scene.REMEMBERED]:
            yield f"the rules that were to be remembered for always are {patterns}"


def _check_effects(life: Life, journals: dict[str, list[Record]]) -> Iterator[str]:
    """Each unsafe command ran at most once, only after its start was in the journal, and has an outcome."""
    facts = [fact for records in journals.values() for fact in facts_of(records)]
    calls = {
        request["tool_call_id"]: scene.COMMANDS[request["arguments"]["command"]]
        for fact in facts
        if fact["type"] == "model_call.completed"
        for request in fact.get("tool_requests", ())
        if request["tool"] == "bash"
    }
    lines = Counter(scene.counted(life.daemon))
    given_up = _given_up(journals)
    for tool_call_id, name in calls.items():
        mine = [fact for fact in facts if fact.get("tool_call_id") == tool_call_id]
        starts = sum(fact["type"] == "tool_call.started" for fact in mine)
        unsure = any(fact["type"] == "tool_call.became_uncertain" for fact in mine)
        done = sum(fact["type"] == "tool_call.completed" for fact in mine)
        ran = lines.pop(name, 0)
        if name in scene.DENIED:
            if ran or starts:
                yield f"{name} was denied, has {starts} starts and ran {ran} times"
            continue
        if ran > starts:
            yield f"{name} ran {ran} times and its start is {starts} times in the journal"
        if starts > 1:
            yield f"{name}, which is unsafe, was started {starts} times"
        if given_up and not done:  # ended before its time
            continue
        if name not in scene.STOPPED and (starts, done) != (1, 1):
            yield f"{name} has {starts} starts and {done} outcomes"
        if not unsure and ran != 1:
            yield f"{name} ran {ran} times, and nobody was told that this is in doubt"
    yield from (f"{name} ran {count} times and no model asked for it" for name, count in lines.items())
    if sorted(set(calls.values())) != sorted(calls.values()):
        yield f"a command was asked for twice: {sorted(calls.values())}"
    again = sum(fact["type"] == "model_call.died" for fact in facts)
    if again > life.deaths:
        yield f"{again} model calls were made again after {life.deaths} deaths"


def _given_up(journals: dict[str, list[Record]]) -> dict[str, str]:
    """The calls that were not made again because the daemon had died too often in them, and what their deaths are
    called. Such a life ends in its own way."""
    calls = {}
    for fact in (fact for records in journals.values() for fact in facts_of(records)):
        if fact["type"] == "model_call.failed" and fact["code"] == "daemon_died":
            calls[fact["model_call_id"]] = "model_call.died"
        elif fact["type"] == "tool_call.completed" and fact["output"].startswith("The daemon died "):
            calls[fact["tool_call_id"]] = "tool_call.died"
    return calls


def _check_given_up(calls: dict[str, str], journals: dict[str, list[Record]]) -> Iterator[str]:
    """Each has had all the deaths that it may have. (A tool call's last one is its outcome.)"""
    facts = [fact for records in journals.values() for fact in facts_of(records)]
    for id_, died in calls.items():
        noun = died.removesuffix(".died")
        deaths = sum(fact["type"] == died and fact[f"{noun}_id"] == id_ for fact in facts) + (noun == "tool_call")
        if deaths != MODEL_DEATHS_MAX:
            yield f"{id_} was given up after {deaths} deaths"


def _check_waits(journals: dict[str, list[Record]]) -> Iterator[str]:
    """What waits for a human is asked once, keeps its id across restarts, and is settled once."""
    for records in journals.values():
        asked: Counter[tuple[str, str]] = Counter()
        settled: Counter[str] = Counter()
        for fact in facts_of(records):
            if fact["type"] in ("approval.requested", "question.requested"):
                asked[fact["tool_call_id"], fact.get("kind", "tool_call")] += 1
            elif fact["type"].startswith(("approval.", "question.")):
                settled[fact["request_id"]] += 1
        yield from (f"{call} was asked {count} times" for call, count in asked.items() if count > 1)
        yield from (f"{id_} was settled {count} times" for id_, count in settled.items() if count > 1)
        if len(settled) != sum(asked.values()):
            yield f"{sum(asked.values())} requests, {len(settled)} of them settled"


def _check_followers(life: Life, journals: dict[str, list[Record]]) -> Iterator[str]:
    """Each follower saw every record once, in order, as it is stored; none that a death took back."""
    for session_id, records in journals.items():
        stored = [_public(session_id, record) for record in records]
        seen = [event.data for event in life.seen[session_id]]
        if seen != stored:
            yield f"the follower of {session_id} saw {_compare([d['seq'] for d in seen], [d['seq'] for d in stored])}"
    everything = sorted(
        ((record.gen, record.pos), session_id, record) for session_id, records in journals.items() for record in records
    )
    stored = [_public(session_id, record) for _, session_id, record in everything]
    seen = [event.data for event in life.seen[""]]
    if seen != stored:
        places = [[(d["generation"], d["position"]) for d in data] for data in (seen, stored)]
        yield f"the follower of everything saw {_compare(*places)}"


def _public(session_id: str, record: Record) -> Json:
    return {
        "session_id": session_id,
        "seq": record.seq,
        "at_ms": record.at,
        "generation": record.gen,
        "position": record.pos,
        "by": record.by,
        "events": orjson.loads(record.events_json),
    }


def _compare(seen: list[Any], stored: list[Any]) -> str:
    missing, extra = Counter(stored) - Counter(seen), Counter(seen) - Counter(stored)
    if missing or extra:
        return f"{len(seen)} records of {len(stored)}: missing {sorted(missing)}, too many {sorted(extra)}"
    return "records in another order or with another content" if seen == stored else f"another order: {seen}"


def _check_files(life: Life, journals: dict[str, list[Record]]) -> Iterator[str]:
    """The store verifies, its fold is the state that clients saw last, and nothing unfinished lies about."""
    for verified in verify(life.daemon.state):
        yield from (f"{fault.file}:{fault.line}: {fault.reason}" for fault in verified.faults)
    for session_id, records in journals.items():
        state = fold_records(records, State())
        runs = [(run.run_id, run.phase) for run in reversed(state.runs.values())]
        if runs != [(run["run_id"], run["status"]) for run in life.final[session_id]["runs"]]:
            yield f"the journal of {session_id} folds to {runs}"
        if state.processes or state.active or state.queue:
            yield f"{session_id} still owes something: {state.active} {state.queue} {state.processes}"
        noted = [fact.get("tail_file", "") for fact in facts_of(records) if fact["type"] == "session.recovered"]
        directory = life.daemon.state / "sessions" / session_id
        # Of a session that was not yet there nothing is noted.
        aside = {path.name for path in directory.glob("torn-*") if not path.name.startswith(f"torn-{0:012d}")}
        if aside != {*" ".join(noted).split()}:
            yield f"tails cut in {session_id}: {noted} in the journal, {sorted(aside)} aside"
    if life.generations != sorted(set(life.generations)):
        yield f"the generations {life.generations} do not grow"
    for path in life.daemon.state.rglob(".*"):
        yield f"{path.relative_to(life.folder)} was left behind"
    given_up = _given_up(journals)
    for path in life.daemon.work.rglob(".kheish-*"):
        if path.name.removeprefix(".kheish-") not in given_up:  # nobody comes back to that call
            yield f"{path.name} was left in the workspace"


def _check_processes(life: Life) -> Iterator[str]:
    """No process of a tool call is left; one whose daemon died at its gate needs a moment to notice."""
    deadline = time.monotonic() + ORPHAN_TIMEOUT_S
    while left := processes_of(life.daemon.state):
        if time.monotonic() > deadline:
            for pid, command in left.items():
                yield f"process {pid} is left: {command}"
                os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.01)


def processes_of(state_root: Path) -> dict[int, str]:
    """The live processes of tool calls of this state root: pid and command line."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or not read_variable(int(name), MARK):
            continue
        if read_variable(int(name), "KHEISH_STATE_ROOT") == str(state_root):
            try:
                command = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            found[int(name)] = command
    return found


def _differences(expected: Any, ours: Any, path: str = "$") -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(ours, dict):
        for name in sorted({*expected, *ours}):
            yield from _differences(expected.get(name), ours.get(name), f"{path}.{name}")
    elif isinstance(expected, list) and isinstance(ours, list) and len(expected) == len(ours):
        for position, (left, right) in enumerate(zip(expected, ours, strict=True)):
            yield from _differences(left, right, f"{path}[{position}]")
    elif expected != ours:
        yield f"{path}: {ours!r}, not {expected!r}"
