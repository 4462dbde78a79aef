"""Sessions that earlier versions wrote: each is read, folded and checked as it was on the day.

A golden folder is a state root with one session in it, which has every type of event, and `expected.json` with the
digest of the state that its journal folds to. After a change of the format, keep the old folders as they are (upgrade
steps read them) and write a new one with the code of the day:

    python -m tests.golden.test_journal_format journal-format-2
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any, get_args

import msgspec
import orjson
import pytest

from kheish.core import commands as c
from kheish.core import events as e
from kheish.core import outcomes as o
from kheish.core.codec import canonical_digest, decode_events, encode_events, encode_state
from kheish.core.compaction import divide
from kheish.core.contracts import NewContext, Reply, ReplyToolCall
from kheish.core.draft import Settings
from kheish.core.effects import CallModel, EndProcess, RunTool, WakeAt
from kheish.core.machine import decide, pending
from kheish.core.permissions import DEFAULT_RULES
from kheish.core.retrace import Retrace
from kheish.core.state import REDUCER_VERSION, State
from kheish.daemon import maintenance
from kheish.runtime.fold import context_of, fold_records, fold_session
from kheish.store.blobs import Blobs
from kheish.store.checkpoint import save_checkpoint
from kheish.store.records import Record
from kheish.store.segments import read_records
from kheish.store.session_dir import SessionDir, session_path
from tests.core.conversation import ALPHABET, TOOLS
from tests.runtime.kernel import Kernel
from tests.store.sessions import make_empty

HERE = Path(__file__).parent
SESSION = "golden"
FOLDERS = sorted(folder.name for folder in HERE.glob("journal-format-*"))
NEWEST = max(FOLDERS, key=lambda name: int(name.rpartition("-")[2]), default="")

CHANGED = """\
{folder}: {what}.
The format on disk changed, and sessions of users are read like this one. Take the change back; or, where it is meant,
add a numbered step to kheish/store/upgrades that reads the old form (and raise REDUCER_VERSION where the same events
now fold to another state), keep this folder, and write a new one beside it:
    python -m tests.golden.test_journal_format journal-format-N"""


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def records_of(folder: str) -> list[Record]:
    return list(read_records(session_path(HERE / folder, SESSION), 1))


def changed(folder: str, what: str) -> str:
    return CHANGED.format(folder=folder, what=what)


def test_there_is_a_golden_journal() -> None:
    assert "journal-format-1" in FOLDERS


def test_its_journal_folds_to_the_state_of_the_day(folder: str) -> None:
    expected = json.loads((HERE / folder / "expected.json").read_text())
    records = records_of(folder)
    assert len(records) == expected["records"]
    state = maintenance.fold(records)
    digest = hashlib.sha256(state).hexdigest()
    assert digest == expected["state_sha256"], changed(folder, f"its journal folds to another state: {state.decode()}")


def test_verify_finds_no_fault(folder: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(HERE / folder, root)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    (result,) = maintenance.verify(root)
    assert result.session_id == SESSION
    assert result.faults == [], changed(folder, "verify finds faults")
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_verify_would_find_a_fault(folder: str, tmp_path: Path) -> None:
    """The checkpoints and blobs of the golden folder are looked at, too."""
    for pattern in ("sessions/*/journal-*", "sessions/*/checkpoint-*", "blobs/*/*"):
        root = tmp_path / pattern.replace("/", "_").replace("*", "x")
        shutil.copytree(HERE / folder, root)
        file = max(root.glob(pattern))
        file.write_bytes(file.read_bytes()[:-20] + b"!" * 20)
        assert maintenance.verify(root)[0].faults, pattern


async def test_a_daemon_opens_it(folder: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(HERE / folder, root)
    async with Kernel(root, [], generation=9) as kernel:
        state = await kernel.state(SESSION)
        assert encode_state(state) == maintenance.fold(records_of(folder))
        assert state.ended and kernel.supervisor.index.rows[SESSION].problem == ""


def test_the_newest_has_every_type_of_event() -> None:
    found = {event["type"] for record in records_of(NEWEST) for event in record.events}
    known = {str(type_.__struct_config__.tag) for type_ in get_args(e.AnyEvent)}
    assert known <= found, changed(NEWEST, f"it has no {', '.join(sorted(known - found))}, which the code knows")


def test_nothing_of_an_event_is_lost_on_reading(folder: str) -> None:
    """A field that was renamed or dropped would vanish without an error."""
    for record in records_of(folder):
        again = orjson.loads(encode_events(decode_events(record.events_json)))
        assert again == record.events, changed(folder, f"record {record.seq} is not read whole")


# -- writing one ----------------------------------------------------------------------------------------------------


class Writer:
    """Decides as a daemon does and writes each decision into a real session."""

    def __init__(self, root: Path) -> None:
        make_empty(root, SESSION)
        self.journal = SessionDir.open(root, SESSION, fold_session, reducer=REDUCER_VERSION).journal
        self.state = State()
        self.settings = Settings(tools=TOOLS, rules=DEFAULT_RULES, policy_revision="5f0c2a9d11e47b36")
        self.generation = 1
        self.clock_ms = 1_800_000_000_000
        self.pids = 4000
        self.result = ""
        self.cooling: tuple[e.Cooling, ...] = ()
        self.outside: tuple[c.Outside, ...] = ()

    def send(self, message: c.Command | o.Outcome, key: str = "", principal: str = "user:1000") -> None:
        self.clock_ms += 1000
        number, digits = self.clock_ms, ""
        for _ in range(10):
            digits, number = ALPHABET[number & 31] + digits, number >> 5
        is_outcome = isinstance(message, o.Outcome)
        context = c.Context(
            at_ms=self.clock_ms,
            id_base=f"{digits}GOLDENGOLDEN0000",
            generation=self.generation,
            principal="daemon" if is_outcome else principal,
            origin="daemon" if is_outcome else "cli",
            is_operator=principal.startswith("user:") and not is_outcome,
            key=key,
            body_digest=canonical_digest(msgspec.to_builtins(message)) if key else "",
            cooling=self.cooling,
            outside=self.outside,
            day="2027-01-15",
        )
        decision = decide(self.state, message, context, self.settings)
        assert decision.events, message
        by = {"principal": context.principal, "origin": context.origin}
        if not is_outcome:
            by["command"] = str(message.__struct_config__.tag)
        if key:
            by["key"] = key
        framed = self.journal.frame(
            at=context.at_ms,
            gen=context.generation,
            pos=self.journal.next_seq,
            by=by,
            events_json=encode_events(decision.events),
        )
        self.journal.commit([framed])
        self.state, self.result = decision.state, decision.result

    def checkpoint(self) -> None:
        seq = self.journal.durable_seq
        save_checkpoint(
            self.journal, seq, reducer=REDUCER_VERSION, state=encode_state(self.state), at=self.state.updated_at_ms
        )

    def submit(self, text: str, key: str = "", **fields: Any) -> str:
        self.send(c.SubmitRun(**{"text": text, "route": "anthropic", "model": "claude-x", **fields}), key)
        return self.result

    def owed(self, type_: type[Any]) -> Any:
        return next(effect for effect in pending(self.state) if isinstance(effect, type_))

    def reply(
        self,
        text: str,
        *calls: ReplyToolCall,
        cost_usd: float | None = None,
        context: NewContext | None = None,
        **fields: Any,
    ) -> None:
        call = self.owed(CallModel)
        reply = Reply(
            text=text,
            stop_reason="tool_use" if calls else "end",
            tool_calls=calls,
            request_id="req_011CSHoEeqs5C35K2UUqR7Fy",
            **fields,
        )
        replied = o.ModelReplied(
            run_id=call.run_id,
            model_call_id=call.model_call_id,
            attempt=call.attempt,
            reply=reply,
            first_ms=310,
            duration_ms=900,
            cost_usd=cost_usd,
            context=context,
        )
        self.send(replied)

    @property
    def shown(self) -> tuple[e.Message, ...]:
        return tuple(self.state.shown or fold_records(self.journal.read(), State()).entered)

    def sum_up(self, text: str) -> None:
        """A model writes the summary that is due."""
        assert self.state.active_run is not None
        plan = divide(self.shown, e.UserMessage(text=self.state.active_run.text), 200, 800, self.state.left_out)
        assert plan is not None
        self.reply(text, context=plan.with_summary(text))

    def fail(self, code: str, message: str, **fields: Any) -> None:
        call = self.owed(CallModel)
        failed = o.ModelFailed(
            run_id=call.run_id,
            model_call_id=call.model_call_id,
            attempt=call.attempt,
            code=code,
            message=message,
            request_id="req_0fail",
            duration_ms=80,
            **fields,
        )
        self.send(failed)

    def wake(self) -> None:
        wake = self.owed(WakeAt)
        self.send(o.RetryDue(run_id=wake.run_id, model_call_id=wake.model_call_id, attempt=wake.attempt))

    def start_process(self) -> None:
        effect = self.owed(RunTool)
        self.pids += 1
        process = e.Process(pid=self.pids, start_ticks=123456, boot_id="0d6e5b0e")
        self.send(o.ToolProcessMade(run_id=effect.run_id, tool_call_id=effect.tool_call_id, process=process))

    def finish_tool(self, output: str, **fields: Any) -> None:
        effect = self.owed(RunTool)
        self.send(o.ToolFinished(run_id=effect.run_id, tool_call_id=effect.tool_call_id, output=output, **fields))

    def resolve(self, resolution: Any, key: str = "", **fields: Any) -> None:
        request_id = next(iter(self.state.approvals))
        item = c.ApprovalResolution(request_id=request_id, resolution=resolution, **fields)
        self.send(c.ResolveApprovals(resolutions=(item,)), key)

    def answer(self, *answers: e.Answer, key: str = "", **fields: Any) -> None:
        self.send(c.AnswerQuestion(request_id=next(iter(self.state.questions)), answers=answers, **fields), key)

    def die(self, **fields: Any) -> None:
        self.generation += 1
        self.send(c.Recover(**fields), principal="daemon")


def call(tool: str, malformed: str = "", **arguments: Any) -> ReplyToolCall:
    return ReplyToolCall(provider_id="toolu_01", tool=tool, arguments=arguments, malformed=malformed)


HOPS = (
    e.Hop(route="anthropic", model="claude-x", on=("overloaded", "rate_limited")),
    e.Hop(route="openai", model="gpt-x"),
    e.Hop(route="kin", model="kin-x"),
)
REQUEST = e.ToolRequest(tool_call_id="toolcall_0", provider_id="toolu_00", tool="read_file", arguments={"path": "a"})
MESSAGES: tuple[e.Message, ...] = (
    e.UserMessage(text="Look.", attachments=(e.Attachment(name="a", media_type="text/plain", text="é"),)),
    e.AssistantMessage(text="", tool_requests=(REQUEST,), reasoning="Hm.", provider_state={"anthropic": {"x": [1]}}),
    e.ToolMessage(tool_call_id="toolcall_0", provider_id="toolu_00", tool="read_file", text="no", is_error=True),
    e.AssistantMessage(text="It is not there."),
)
QUESTIONS = [
    {
        "header": "Way",
        "question": "Which way?",
        "options": [{"label": "Left", "description": "The short one."}, {"label": "Right"}],
        "multi_select": True,
    },
    {"question": "Why?"},
]


def write(root: Path) -> None:
    """A life with everything in it, then `expected.json`."""
    blobs = Blobs(root)
    w = Writer(root)
    forked = e.SessionForked(from_session_id="other", from_seq=7, messages=MESSAGES)
    w.send(
        c.CreateSession(
            session_id=SESSION,
            cwd="/srv/project",
            mode="plan",
            title="A golden life",
            forked=forked,
            parent_session_id="elder",
            parent_run_id="run_01ARZ3NDEKTSV4RRFFQ69G5FAV",
        )
    )
    w.send(c.SetMode(mode="default"))
    w.send(c.SetModel(model="anthropic/claude-x"))
    w.settings = msgspec.structs.replace(
        w.settings, system_prompt="Be brief.", tool_limits={"bash": e.ToolLimits(timeout_ms=60_000, output_bytes=4096)}
    )
    w.send(c.AddRule(rule=e.Rule(pattern="bash(sudo *)", behavior="deny")))

    # A run with attachments; a retry; a reply with everything; an edited approval; a result in a blob.
    attachments = (
        e.Attachment(name="alert.json", media_type="application/json", text='{"level": "é"}', bytes=15),
        e.Attachment(name="graph.png", media_type="image/png", blob=blobs.put(b"\x89PNG"), bytes=4),
    )
    w.submit("Look at this.", key="first", attachments=attachments, metadata={"ticket": 4821})
    w.fail("rate_limited", "429: slow down")
    w.wake()
    w.reply(
        "I look.",
        call("bash", command="make test"),
        call("bash", command="sudo make"),
        call("read_file", path="README.md"),
        call("bash", malformed='{"command": "ls'),
        usage=e.Usage(
            input_tokens=1200, output_tokens=80, cache_read_tokens=1000, cache_write_tokens=200, reasoning_tokens=30
        ),
        reasoning="Tests first.",
        model="claude-x-1",
        provider_state={"anthropic": {"thinking": [{"type": "thinking", "thinking": "Tests first."}]}},
    )
    w.finish_tool("# Project")
    w.resolve(
        "allow",
        key="edit",
        remember="session",
        rule="bash(make *)",
        updated_input={"command": "make -n test"},
        justification="Only show me.",
    )
    w.start_process()
    output = b"x" * 20_000
    w.finish_tool(
        "xxx [...] xxx",
        is_error=True,
        output_bytes=len(output),
        blob=blobs.put(output),
        metadata={"exit_code": 2, "duration_ms": 1500},
    )
    w.submit("And hurry.", key="steer", delivery="steer", attachments=attachments[:1])
    todos = [{"content": "Look", "status": "completed"}, {"content": "Mend", "status": "pending"}]
    w.reply("", call("todo_write", todos=todos))
    w.finish_tool("[x] Look")
    w.reply("What now?", call("ask_user_question", questions=QUESTIONS))
    w.answer(
        e.Answer(question_id="1", selected_option_ids=("1", "2")),
        e.Answer(question_id="2", freeform_answer="Because."),
        key="answer",
        justification="As we said.",
    )
    w.reply("Done.")
    w.checkpoint()

    # A chain: one hop is left, the next breaks off and is taken once more, with a death before the last answers.
    w.submit("By any way.", hops=HOPS)
    w.cooling = (e.Cooling(route="anthropic", model="claude-x", code="overloaded", until_ms=w.clock_ms + 5_000),)
    w.fail("overloaded", "529: busy")
    w.fail("connection", "the stream ended before the reply was complete", has_output=True)
    w.wake()
    w.fail("server_error", "500: oh no")
    w.die()
    w.reply("By this one.")
    w.cooling = ()

    # A run with a budget: a failed attempt that was billed, a warning, a raise, and the end with a last word.
    w.outside = (c.Outside(account=f"session:{SESSION}", raised=e.Budget(tokens=500)),)
    w.send(c.SetBudget(budget=e.Budget(tokens=10_000_000)))
    w.submit(
        "Not for more than this.",
        budget=e.Budget(cost_usd=0.25, steps=1),
        rates=(e.Rate(input_usd=5.0, output_usd=25.0),),
    )
    w.fail("connection", "the stream ended", usage=e.Usage(input_tokens=900), cost_usd=0.0045)
    w.wake()
    w.reply("I read.", call("read_file", path="a"), usage=e.Usage(input_tokens=1000), cost_usd=0.005)
    w.finish_tool("a")
    w.resolve("raise", key="raise", raise_by=e.Budget(steps=1, cost_usd=0.1))
    w.reply("I read on.", call("read_file", path="b"))
    w.finish_tool("b")
    w.resolve("stop", justification="Enough of it.")
    w.reply("I read a and b.")
    w.outside = ()

    # What models are shown is compacted: as asked for, near the window, and after a provider found it too large.
    w.send(c.CompactContext())
    w.submit("Go on.", window_tokens=4_096, pinned=True)
    w.sum_up("They looked, in three ways.")
    w.reply("", call("read_file", path="long"), usage=e.Usage(input_tokens=4_000, output_tokens=60))
    w.submit("Keep this.", delivery="steer", pinned=True)
    w.finish_tool("line\n" * 800)
    w.sum_up("They looked, and read what is long.")
    w.fail("too_large", "400: prompt is too long", context=NewContext(shown=w.shown[1:], left_out=0))
    w.fail("too_large", "400: prompt is too long")
    w.fail("content_refused", "400: no", context=NewContext(shown=w.shown[1:], left_out=1))
    w.reply("That fits.")

    # A daemon dies in a model call (with a torn tail), in a read, and in a command that a human had approved.
    w.submit("Again.")
    w.die(tail_bytes_dropped=17, tail_file="torn-000000000020.jsonl")
    w.reply("", call("read_file", path="a"))
    w.die()
    w.finish_tool("a")
    w.reply("", call("bash", command="deploy"))
    w.resolve("allow", remember="always")
    w.start_process()
    w.die()
    w.send(o.ProcessGone(tool_call_id=w.owed(EndProcess).tool_call_id, pid=w.pids, killed=True))
    w.settings = msgspec.structs.replace(w.settings, policy_revision="77aa04c1d2b39e58")
    w.die()
    w.resolve("mark_done", justification="I looked.")
    w.send(c.SetMode(mode="accept_edits"))
    w.send(c.RenameSession(title="The golden one"))
    w.send(c.LabelRecord(seq=2, label="The first input"))
    w.send(c.LabelRecord(seq=3, label="Not this one"))
    w.send(c.LabelRecord(seq=3, label=""))
    w.reply("", call("send_mail", to="all"), call("bash", command="rm x"), call("write_file", path="b"))
    w.finish_tool("sent")
    w.finish_tool("written")
    w.resolve("deny", justification="Not that.")
    w.reply("", call("ask_user_question", questions=QUESTIONS[1:]))
    w.answer(declined=True)

    # Queued runs: edited, put first, cancelled, interrupted, failed with what steered it next; then the end of it all.
    queued = w.submit("Later.")
    w.send(c.EditRun(run_id=queued, text="Later, please."))
    w.send(c.PauseQueue())
    other = w.submit("Later still.")
    w.send(c.MoveRun(run_id=other, position=1))
    w.send(c.CancelRun(run_id=other))
    w.send(c.ResumeQueue())
    w.submit("Now!", delivery="interrupt")
    w.reply("", call("ask_user_question", questions=QUESTIONS[1:]), call("bash", command="ls"))
    assert w.state.active_run is not None
    w.send(c.CancelRun(run_id=w.state.active_run.run_id, reason="No longer needed."))
    w.submit("And say why.", delivery="steer")
    w.fail("auth", "401: invalid key")
    w.reply("It was the key.")
    w.submit("The last.", kind="scheduled_input")
    w.send(c.InterruptSession(reason="Enough."))
    w.checkpoint()
    w.send(c.EndSession(reason="It is over."))
    w.journal.close()

    directory = session_path(root, SESSION)
    for file in directory.iterdir():
        if not file.name.startswith(("journal-", "checkpoint-")):
            file.unlink()
    expected = {
        "records": w.journal.durable_seq,
        "state_sha256": hashlib.sha256(maintenance.fold(read_records(directory, 1))).hexdigest(),
    }
    (root / "expected.json").write_text(json.dumps(expected, indent=2) + "\n")


def test_the_present_code_can_write_one_with_every_type_of_event(tmp_path: Path) -> None:
    write(tmp_path)
    assert maintenance.verify(tmp_path)[0].faults == []
    records = read_records(session_path(tmp_path, SESSION), 1)
    found = {event["type"] for record in records for event in record.events}
    assert found == {str(type_.__struct_config__.tag) for type_ in get_args(e.AnyEvent)}


def test_all_that_is_decided_in_it_is_decided_so_again(tmp_path: Path) -> None:
    write(tmp_path)
    records = list(read_records(session_path(tmp_path, SESSION), 1))
    settings = Settings(tools=TOOLS, rules=DEFAULT_RULES, policy_revision="")
    run_ids = [event["run_id"] for r in records for event in r.events if event["type"] == "run.submitted"]
    for run_id in run_ids:
        retrace = Retrace(run_id, settings)
        for record in records:
            if not retrace.is_over:
                command = str(record.by.get("command", ""))
                retrace.add(decode_events(record.events_json), context_of(record), record.seq, command)
        assert (retrace.departures, retrace.unknown, retrace.is_over) == ([], 0, True)
        assert retrace.decisions


if __name__ == "__main__":
    target = HERE / sys.argv[1]
    if target.exists():
        raise SystemExit(f"{target} exists, and a golden folder is never written again")
    target.mkdir()
    write(target)
