"""What the screens show, folded from the very events that the core folds. Pure: no clock, no I/O, no widgets.

`Board` is the state of all sessions at a glance; `Conversation` is a window of one session's records as entries. Both
take records in any order of arrival that the daemon may use: one that was seen is passed over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from kheish.client import AnyEvent, BudgetView, DeltaView, InboxView, RecordView, RunView, SessionView
from kheish.client.views import ContextCompacted
from kheish.narration import CUT_REPLY, PLAN_TOOL, account_text, compaction_text, limits_text, plan_of
from kheish.terminal import counted, last_written, one_line

if TYPE_CHECKING:
    from kheish.client import SpentView
    from kheish.client.views import PlanItem

Need = Literal["needs you", "working", "queued", "done"]
NEEDS: tuple[Need, ...] = ("needs you", "working", "queued", "done")

OUTPUT_LINES_KEPT = 2_000
"""Of a running tool's live output."""
HEADLINE_CHARS = 200
SHELL_ROUTE = "shell"
"""That of the lines that begin with `!`."""
OVER = {"run.completed": "completed", "run.failed": "failed", "run.cancelled": "cancelled",
        "run.interrupted": "interrupted"}  # fmt: skip
RESOLVED = {"allow": "allowed", "deny": "denied", "verify": "left to the model to verify", "retry": "run again",
            "mark_done": "marked as done", "give_up": "given up", "raise": "raised",
            "stop": "not raised"}  # fmt: skip


# -- all sessions at a glance ----------------------------------------------------------------------------------------


class Row:
    """One session. `asks` are the requests that wait for a human, by id, oldest first, as the API or the journal shows
    them. `since_ms` is when it entered its present state."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.cwd = ""
        self.title = ""
        self.mode = "default"
        self.headline = ""
        """The input of the active run, else the newest: as the API has it."""
        self.about = ""
        """The run of which that is the input, where it is active or queued."""
        self.last_status = ""
        self.active = ""
        self.is_ended = False
        self.problem = ""
        self.queue: list[str] = []
        self.is_paused = False
        """No queued run starts."""
        self.asks: dict[str, dict[str, Any]] = {}
        self.model = ""
        self.step = 0
        self.plan: list[PlanItem] = []
        """Of the active run, or of the last one while it was looked at."""
        self.planned: dict[str, list[PlanItem]] = {}
        """What becomes the plan when the call that says so is done."""
        self.budgets: list[BudgetView] = []
        """Those of which the active run has used most, as the daemon said last."""
        self.tokens = 0
        self.since_ms = 0
        self.seq = 0
        self.attached = 0

    @property
    def need(self) -> Need:
        if self.asks:
            return "needs you"
        if self.active:
            return "working"
        return "queued" if self.queue else "done"

    @property
    def status(self) -> str:
        """A word: what it waits for, `running`, `queued`, `paused`, how the last run ended, `idle` or `ended`."""
        if self.problem:
            return "read-only"
        if self.asks:
            first = next(iter(self.asks.values()))
            return "question" if "questions" in first else "approval"
        if self.active:
            return "running"
        if self.queue:
            return "paused" if self.is_paused else "queued"
        return "ended" if self.is_ended else self.last_status or "idle"

    @property
    def name(self) -> str:
        return self.title or self.session_id


class Board:
    """`load` takes what the API lists; `apply` what happens afterwards."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self._runs: dict[str, tuple[str, str]] = {}
        """The model and the input of those that are queued, where they were told of."""

    def load(self, sessions: Sequence[SessionView], inbox: InboxView, runs: Sequence[RunView]) -> None:
        """What was known before stays where the daemon's answer is older than it."""
        for view in sessions:
            row = self._row(view["session_id"])
            row.attached = view["attached"]
            row.last_status = row.last_status or view["last_run_status"]
            if row.seq > view["seq"]:
                continue
            row.seq = view["seq"]
            row.cwd, row.title, row.mode = view["cwd"], view["title"], view["permission_mode"]
            row.headline, row.active = view["headline"], view["active_run_id"]
            row.queue, row.is_ended = list(view["queued_run_ids"]), view["ended"]
            row.about = row.active or (row.queue[-1] if row.queue else "")
            row.is_paused = view.get("queue_paused", False)
            row.problem, row.since_ms = view["problem"], view["updated_at_ms"]
            row.asks = {id_: row.asks.get(id_, {}) for id_ in _waiting_ids(view)}
        for ask in sorted([*inbox["approvals"], *inbox["questions"]], key=lambda a: a["requested_at_ms"]):
            row = self._row(ask["session_id"])
            if ask["request_id"] in row.asks:
                row.asks.pop(ask["request_id"])
                row.asks[ask["request_id"]] = dict(ask)
                row.since_ms = ask["requested_at_ms"]
        for run in runs:
            row = self._row(run["session_id"])
            if run["run_id"] == row.active:
                row.model = f"{run['request']['provider']}/{run['request']['model']}"
                row.step, row.tokens = run["step"], run["usage"]["input_tokens"] + run["usage"]["output_tokens"]
                row.plan = run.get("plan", [])
        self.load_active(runs)

    def load_active(self, runs: Iterable[RunView]) -> list[Row]:
        """What the active runs have used, and are about; the rows that changed."""
        known = {run["run_id"]: run for run in runs}
        changed = []
        for row in self.rows.values():
            run = known.get(row.active)
            near = run.get("budgets_nearly_used", []) if run else []
            if row.budgets != near or (run and row.about != row.active):
                changed.append(row)
            row.budgets = near
            if run and row.about != row.active:
                row.about, row.headline = row.active, run["request"]["text_preview"][:HEADLINE_CHARS]
        return changed

    def drop(self, session_ids: Iterable[str]) -> None:
        """Sessions that are there no more."""
        for session_id in session_ids:
            self.rows.pop(session_id, None)

    def apply(self, record: RecordView) -> Row | None:
        """The row that changed."""
        row = self._row(record["session_id"])
        if record["seq"] <= row.seq:
            return None
        row.seq = record["seq"]
        for event in record["events"]:
            self._apply(row, event, record["at_ms"])
        return row

    def _row(self, session_id: str) -> Row:
        row = self.rows.get(session_id)
        if row is None:
            row = self.rows[session_id] = Row(session_id)
        return row

    def _turn_to(self, row: Row, run_id: str) -> None:
        if run_id in self._runs:
            row.about, row.headline = run_id, self._runs[run_id][1]

    def _apply(self, row: Row, event: AnyEvent, at_ms: int) -> None:
        match event["type"]:
            case "session.created":
                row.cwd, row.title, row.mode = event["cwd"], event.get("title", ""), event.get("mode", "default")
                row.since_ms = at_ms
            case "session.ended":
                row.is_ended, row.since_ms = True, at_ms
            case "session.mode_changed":
                row.mode = event["mode"]
            case "session.renamed":
                row.title = event["title"]
            case "run.submitted":
                row.queue.insert(0 if event.get("first") else len(row.queue), event["run_id"])
                self._runs[event["run_id"]] = f"{event['route']}/{event['model']}", event["text"][:HEADLINE_CHARS]
                if not row.active:
                    row.since_ms = at_ms
                    self._turn_to(row, event["run_id"])
            case "run.edited" if event["run_id"] in self._runs:
                self._runs[event["run_id"]] = self._runs[event["run_id"]][0], event["text"][:HEADLINE_CHARS]
                if event["run_id"] == row.about:
                    self._turn_to(row, row.about)
            case "queue.paused" | "queue.resumed":
                row.is_paused = event["type"] == "queue.paused"
            case "run.moved":
                row.queue = [run_id for run_id in row.queue if run_id != event["run_id"]]
                row.queue.insert(event["position"] - 1, event["run_id"])
            case "run.started":
                row.active, row.step, row.tokens, row.since_ms = event["run_id"], 0, 0, at_ms
                row.queue = [run_id for run_id in row.queue if run_id != row.active]
                self._turn_to(row, row.active)
                row.model, _ = self._runs.pop(row.active, (row.model, ""))
                row.plan, row.planned, row.budgets = [], {}, []
            case "run.completed" | "run.failed" | "run.cancelled" | "run.interrupted":
                if event["run_id"] == row.active:
                    row.active, row.budgets = "", []
                    row.last_status, row.since_ms = OVER[event["type"]], at_ms
                row.queue = [run_id for run_id in row.queue if run_id != event["run_id"]]
                self._runs.pop(event["run_id"], None)
                if row.queue and not row.active:
                    self._turn_to(row, row.queue[-1])
            case "model_call.started":
                row.step = event["step"]
            case "model_call.completed":
                usage = event.get("usage", {})
                row.tokens += usage.get("input_tokens", 0) + usage.get("output_tokens", 0)
                row.planned = {
                    request["tool_call_id"]: plan_of(request["arguments"])
                    for request in event.get("tool_requests", ())
                    if request["tool"] == PLAN_TOOL
                }
            case "tool_call.completed" if event["tool_call_id"] in row.planned:
                plan = row.planned.pop(event["tool_call_id"])
                row.plan = row.plan if event.get("is_error") else plan
            case "approval.requested" | "question.requested":
                row.asks[event["request_id"]] = _as_view(event, row.session_id)
                row.since_ms = event["requested_at_ms"]
            case "approval.resolved" | "approval.withdrawn" | "question.answered" | "question.withdrawn":
                row.asks.pop(event["request_id"], None)
                row.since_ms = at_ms


def _as_view(event: Any, session_id: str) -> dict[str, Any]:
    """A request as the API shows it."""
    view = {**event, "session_id": session_id}
    if "arguments" in view:
        view["input"] = view.pop("arguments")
    return view


def _waiting_ids(view: SessionView) -> list[str]:
    return [*view["pending_approval_ids"], *view["pending_question_ids"]]


def last_words(records: Sequence[RecordView]) -> tuple[str, bool]:
    """What a session said last, or why its last run failed, as far as these records go back; and whether it failed."""
    for record in reversed(records):
        for event in reversed(record["events"]):
            if event["type"] == "run.failed":
                return f"{event['code']}: {event['message']}", True
            if event["type"] == "model_call.completed" and event.get("purpose", "reply") == "reply" and event["text"]:
                return event["text"], False
    return "", False


# -- one session -----------------------------------------------------------------------------------------------------


class Entry:
    """Something of the transcript. `revision` grows whenever it would be drawn otherwise."""

    def __init__(self, seq: int, at_ms: int) -> None:
        self.seq = seq
        self.at_ms = at_ms
        self.revision = 0


class Said(Entry):
    """An input of a person or program. `how`: submitted or steered."""

    def __init__(self, seq: int, at_ms: int, text: str, by: str, origin: str, how: str, attachments: list[str]) -> None:
        super().__init__(seq, at_ms)
        self.text, self.by, self.origin, self.how, self.attachments = text, by, origin, how, attachments
        self.is_shell = False


class Reply(Entry):
    """What a model says in one call. `is_open` while it streams."""

    def __init__(self, seq: int, at_ms: int, model_call_id: str) -> None:
        super().__init__(seq, at_ms)
        self.model_call_id = model_call_id
        self.text = ""
        self.reasoning = ""
        self.is_open = True


CallPhase = Literal["asked", "waiting", "running", "done", "denied", "uncertain"]


class Call(Entry):
    """A tool call. `request` is the approval that it waits for or waited for; `answer` says who settled that, and
    how. `output` is what the tool has said so far, its end where it is long, and then its result."""

    def __init__(self, seq: int, at_ms: int, tool_call_id: str, tool: str, arguments: dict[str, Any]) -> None:
        super().__init__(seq, at_ms)
        self.tool_call_id, self.tool, self.arguments = tool_call_id, tool, arguments
        self.phase: CallPhase = "asked"
        self.request: dict[str, Any] | None = None
        self.answer = ""
        self.reason = ""
        self.output = ""
        self.is_error = False
        self.metadata: dict[str, Any] = {}
        self.blob = ""
        self.output_bytes = 0
        self.started_at_ms = 0
        self.finished_at_ms = 0
        self.attempt = 0
        self._lines: deque[str] = deque(maxlen=OUTPUT_LINES_KEPT)

    def hear(self, text: str, *, so_far: bool = False) -> None:
        """Live output; all of it."""
        if so_far:
            self._lines.clear()
        begun = self._lines.pop() if self._lines else ""
        self._lines.extend(last_written(begun + text).split("\n"))
        self.output = "\n".join(self._lines)


class Asked(Entry):
    """Questions to the person. `answer` is empty while they wait; `by` answered or withdrew them."""

    def __init__(self, seq: int, at_ms: int, request: dict[str, Any]) -> None:
        super().__init__(seq, at_ms)
        self.request = request
        self.answers: list[tuple[str, str]] = []
        self.answer = ""
        self.by = ""


Tone = Literal["dim", "success", "warning", "error"]


class Note(Entry):
    """A line about the run or the session: a retry, a recovery, an end."""

    def __init__(self, seq: int, at_ms: int, text: str, tone: Tone) -> None:
        super().__init__(seq, at_ms)
        self.text, self.tone = text, tone


class Compacted(Entry):
    """Where models began to be shown a summary in place of what is above."""

    def __init__(self, seq: int, at_ms: int, event: ContextCompacted) -> None:
        super().__init__(seq, at_ms)
        self.text, self.summary = compaction_text(event), event.get("summary", "")


class Spending:
    """What a session used in all: as the daemon said it at a seq, and by what was told since."""

    def __init__(self) -> None:
        self.tokens = self.unpriced_calls = self._seq = 0
        self.cost_usd = 0.0

    def load(self, used: SpentView, seq: int) -> None:
        self.tokens, self.cost_usd, self.unpriced_calls = used["tokens"], used["cost_usd"], used["unpriced_calls"]
        self._seq = seq

    def apply(self, record: RecordView) -> None:
        if record["seq"] <= self._seq:
            return
        self._seq = record["seq"]
        for event in record["events"]:
            if event["type"] in ("model_call.completed", "model_call.retrying", "model_call.failed"):
                tokens, cost_usd = _tokens_of(event.get("usage", {})), event.get("cost_usd")
                self.tokens += tokens
                self.cost_usd += cost_usd or 0.0
                self.unpriced_calls += tokens > 0 and cost_usd is None


class Queued:
    """An input that waits: for its turn, or, steered, for the active run's next safe boundary. `is_whole`: the text is
    no mere beginning."""

    def __init__(
        self, id: str, text: str, by: str, *, is_steered: bool, is_sent: bool = True, is_whole: bool = True
    ) -> None:
        self.id, self.text, self.by, self.is_steered, self.is_sent = id, text, by, is_steered, is_sent
        self.is_whole = is_whole


class Change:
    """What an event did to the transcript: entries that came at its end, and those that are drawn otherwise."""

    def __init__(self) -> None:
        self.added: list[Entry] = []
        self.changed: list[Entry] = []


class Conversation:
    """A window of a session's records, folded to entries; `records` runs without a hole up to `last_seq`."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.records: list[RecordView] = []
        self.mode = self.cwd = self.title = ""
        self.window_tokens = 0
        """As the daemon's view of the session says, or the records since."""
        self._windows: dict[tuple[str, str], int] = {}
        self._clear()

    def _clear(self) -> None:
        self.entries: list[Entry] = []
        self.queue: list[Queued] = []
        self.active = ""
        self.step = 0
        self.model = ""
        self.usage = {"input_tokens": 0, "output_tokens": 0, "cache_read_tokens": 0, "cache_write_tokens": 0}
        self.context_tokens = 0
        self.is_ended = False
        self.is_paused = False
        """Of the queue, as far as the window tells."""
        self.asks: dict[str, Call | Asked] = {}
        self._calls: dict[str, Call] = {}
        self._reply: Reply | None = None
        self._calling = ""
        """The model call that is under way."""
        self._heard_late = ""
        """The model call of whose live text the beginning was missed."""
        self._summary_call = ""
        """The newest model call that was for a summary."""
        self._inputs: dict[str, tuple[RecordView, AnyEvent]] = {}
        self._routes: dict[str, str] = {}
        self._started_ms: dict[str, int] = {}

    @property
    def first_seq(self) -> int:
        return self.records[0]["seq"] if self.records else 0

    @property
    def last_seq(self) -> int:
        return self.records[-1]["seq"] if self.records else 0

    def show(self, records: Sequence[RecordView], *, active: str = "") -> None:
        """Replaces the window; a reply that streams goes on where its call is still the last one. `active` is the run
        at its end, which may have begun before it."""
        streaming = self._reply
        self.records = []
        self._clear()
        change = Change()
        for record in records:
            self.records.append(record)
            self._fold(record, change)
        if not self.active and not any(
            event["type"] in OVER and event.get("run_id") == active for record in records for event in record["events"]
        ):
            self.active = active
        if streaming is not None and streaming.model_call_id == self._calling:
            self._reply = streaming
            self.entries.append(streaming)
        else:
            self._heard_late = self._calling

    def apply(self, record: RecordView) -> Change | None:
        """The next record. None where it was seen already. Raises LookupError where records are missing before it."""
        if self.records and record["seq"] <= self.last_seq:
            return None
        if self.records and record["seq"] != self.last_seq + 1:
            raise LookupError(record["seq"])
        self.records.append(record)
        change = Change()
        self._fold(record, change)
        return change

    def hear_from_now(self) -> None:
        """Nothing was missed of what is being said, or it comes at once."""
        self._heard_late = ""

    def hear(self, delta: DeltaView) -> Change:
        """Live text, which the journal will hold when it is whole."""
        change = Change()
        so_far = delta.get("so_far", False)
        if delta["kind"] == "tool_output":
            call = self._calls.get(delta.get("tool_call_id", ""))
            if call is not None and call.phase == "running":
                call.hear(delta.get("text", ""), so_far=so_far)
                _touch(call, change)
            return change
        if delta["kind"] == "tool_call":
            return change
        reply = self._reply
        if reply is None or reply.model_call_id != delta.get("model_call_id"):
            if self._reply_of(delta.get("model_call_id", "")) is not None:
                return change
            reply = self._reply = Reply(self.last_seq, 0, delta.get("model_call_id", ""))
            if reply.model_call_id == self._heard_late and not so_far:
                reply.text = "… "
            self.entries.append(reply)
            change.added.append(reply)
        else:
            _touch(reply, change)
        text = delta.get("text", "")
        if delta["kind"] == "reasoning":
            reply.reasoning = text if so_far else reply.reasoning + text
        else:
            reply.text = text if so_far else reply.text + text
        return change

    def _reply_of(self, model_call_id: str) -> Reply | None:
        for entry in reversed(self.entries[-50:]):
            if isinstance(entry, Reply) and entry.model_call_id == model_call_id:
                return entry
        return None

    # -- the fold ------------------------------------------------------------------------------------------------

    def _fold(self, record: RecordView, change: Change) -> None:
        for event in record["events"]:
            self._event(event, record, change)

    def _add(self, entry: Entry, change: Change) -> None:
        self.entries.append(entry)
        change.added.append(entry)

    def _note(self, record: RecordView, change: Change, text: str, tone: Tone = "dim") -> None:
        self._add(Note(record["seq"], record["at_ms"], text, tone), change)

    def _event(self, event: AnyEvent, record: RecordView, change: Change) -> None:
        who = str(record["by"].get("principal", ""))
        seq, at_ms = record["seq"], record["at_ms"]
        match event["type"]:
            case "session.created":
                self.mode, self.cwd, self.title = event.get("mode", "default"), event["cwd"], event.get("title", "")
            case "session.forked":
                self._fork(event, record, change)
            case "session.ended":
                self.is_ended = True
                self._note(record, change, _because(f"session ended by {who}", event.get("reason", "")))
            case "session.mode_changed":
                self.mode = event["mode"]
                self._note(record, change, f"permission mode {event['mode']}, set by {who}")
            case "session.renamed":
                self.title = event["title"]
            case "session.rule_added":
                rule = event["rule"]
                self._note(record, change, f"rule added by {who}: {rule['behavior']} {rule['pattern']}")
            case "session.budget_set":
                self._note(record, change, f"budget set by {who}: {limits_text(event['budget']) or 'none'}")
            case "session.recovered":
                at = f"resumed at step {self.step}" if self.active else "goes on"
                torn = event.get("tail_bytes_dropped", 0)
                kept = f"; {counted(torn, 'torn byte')} set aside" if torn else ""
                self._note(record, change, f"daemon restarted, {at}{kept}", "warning")
            case "run.submitted":
                self._inputs.pop(event.get("input_id", ""), None)  # the run before it did not take it in
                self.queue = [queued for queued in self.queue if queued.id != event.get("input_id")]
                self._inputs[event["run_id"]] = record, event
                self._routes[event["run_id"]] = f"{event['route']}/{event['model']}"
                for hop in event.get("hops", ()) or (event,):
                    self._windows[hop["route"], hop["model"]] = hop.get("window_tokens", 0)
                queued = Queued(event["run_id"], event["text"], event.get("principal") or who, is_steered=False)
                self.queue.insert(0 if event.get("first") else len(self.queue), queued)
            case "run.edited":
                for queued in self.queue:
                    if queued.id == event["run_id"]:
                        queued.text = event["text"]
            case "queue.paused":
                self.is_paused = True
                self._note(record, change, f"queue paused by {who}", "warning")
            case "queue.resumed":
                self.is_paused = False
                self._note(record, change, f"{who} let the queue go on")
            case "run.moved":
                moved = [q for q in self.queue if q.id == event["run_id"]]
                rest = [q for q in self.queue if q.id != event["run_id"]]
                runs = [q for q in rest if not q.is_steered]
                steered = [q for q in rest if q.is_steered]
                place = event["position"] - 1
                self.queue = [*steered, *runs[:place], *moved, *runs[place:]]
            case "run.started":
                self.active, self.step = event["run_id"], 0
                self.model = self._routes.get(self.active, self.model)
                self._started_ms[self.active] = event["at_ms"]
                self._enter(event["run_id"], record, change, "submitted")
            case "input.steered":
                self._inputs[event["input_id"]] = record, event
                self.queue.append(Queued(event["input_id"], event["text"], who, is_steered=True))
            case "input.entered":
                self._enter(event["input_id"], record, change, "steered")
            case "run.completed" | "run.failed" | "run.cancelled" | "run.interrupted":
                self._finish(event, record, change)
            case _:
                self._step_event(event, record, change, who, seq, at_ms)

    def _fork(self, event: Any, record: RecordView, change: Change) -> None:
        """What was said and done in the other session."""
        seq, at_ms = record["seq"], record["at_ms"]
        for number, message in enumerate(event["messages"]):
            if message["role"] == "user":
                names = [attachment["name"] for attachment in message.get("attachments", ())]
                self._add(Said(seq, at_ms, message["text"], "", "cli", "submitted", names), change)
            elif message["role"] == "assistant":
                if message["text"] or message.get("reasoning"):
                    reply = Reply(seq, at_ms, f"{event['from_session_id']}/{number}")
                    reply.text, reply.reasoning, reply.is_open = message["text"], message.get("reasoning", ""), False
                    self._add(reply, change)
                for asked in message.get("tool_requests", ()):
                    call = self._new_call(record, asked["tool_call_id"], asked["tool"], asked["arguments"], change)
                    call.phase = "done"
            elif (done := self._calls.get(message["tool_call_id"])) is not None:
                done.output, done.is_error = message["text"], message.get("is_error", False)
        self._note(record, change, f"forked from {event['from_session_id']} at record {event['from_seq']}")

    def _enter(self, id_: str, record: RecordView, change: Change, how: str) -> None:
        queued = next((q for q in self.queue if q.id == id_), None)
        self.queue = [q for q in self.queue if q.id != id_]
        given = self._inputs.pop(id_, None)
        if given is None:
            return
        said_in, event = given
        names = [a["name"] for a in event.get("attachments", ())]  # type: ignore[attr-defined]
        text = queued.text if queued else event["text"]  # type: ignore[typeddict-item]
        by, origin = (str(event.get(name) or said_in["by"].get(name, "")) for name in ("principal", "origin"))
        said = Said(record["seq"], record["at_ms"], text, by, origin, how, names)
        said.is_shell = str(event.get("route", "")) == SHELL_ROUTE
        self._add(said, change)

    def _finish(self, event: AnyEvent, record: RecordView, change: Change) -> None:
        run_id = event["run_id"]  # type: ignore[typeddict-item]
        late = [queued for queued in self.queue if queued.is_steered and run_id == self.active]
        unstarted = next((queued for queued in self.queue if queued.id == run_id), None)
        self.queue = [queued for queued in self.queue if queued.id != run_id and queued not in late]
        self._inputs.pop(run_id, None)
        self._routes.pop(run_id, None)
        for request_id, entry in list(self.asks.items()):
            if run_id == self.active:
                del self.asks[request_id]
                _touch(entry, change)
        how = OVER[event["type"]]
        started = self._started_ms.pop(run_id, 0)
        if run_id == self.active:
            self.active = self._calling = ""
            self._close_reply(change)
        took = f" in {duration(record['at_ms'] - started)}" if started else ""
        if event["type"] == "run.completed":
            steps = f", {counted(self.step, 'step')}" if self.step else ""
            self._note(record, change, f"completed{took}{steps}", "success")
        elif event["type"] == "run.failed":
            self._note(record, change, f"failed{took}: {event['code']}: {event['message']}", "error")
        else:
            who = record["by"].get("principal", "")
            what = f"queued {one_line(unstarted.text, 60)!r} " if unstarted else ""
            self._note(record, change, _because(f"{what}{how} by {who}", str(event.get("reason", ""))), "warning")
        for queued in late:
            self._note(record, change, f"it ended before it took this in: {one_line(queued.text, 200)}", "warning")

    def _close_reply(self, change: Change) -> None:
        if self._reply is not None:
            self._reply.is_open = False
            _touch(self._reply, change)
            self._reply = None

    def _step_event(self, event: AnyEvent, record: RecordView, change: Change, who: str, seq: int, at_ms: int) -> None:
        call = self._calls.get(str(event.get("tool_call_id", "")))
        match event["type"]:
            case "model_call.started":
                self.step = event["step"]
                self._calling, self._heard_late = event["model_call_id"], ""
                if event.get("purpose", "reply") == "summary":
                    self._summary_call = event["model_call_id"]
                way = event.get("route", ""), event.get("model", "")
                self.window_tokens = max(0, self._windows.get(way, self.window_tokens))
                if event["attempt"] > 1:
                    self._drop_partial(event["model_call_id"], change)
            case "model_call.completed" if event.get("purpose", "reply") == "summary":
                self._calling = ""
                self._count(event)
            case "model_call.completed":
                self._reply_whole(event, record, change)
                if event.get("stop_reason") == "max_tokens":
                    self._note(record, change, CUT_REPLY, "warning")
            case "context.compaction_requested":
                self._note(record, change, f"{who} asked for a compaction before the next model call")
            case "model_call.failed" if event["code"] == "nothing_to_compact":
                self._note(record, change, f"no summary: {event['message']}")
            case "model_call.failed" if event["model_call_id"] == self._summary_call:
                self._note(record, change, f"no summary: {event['code']}: {event['message']}", "warning")
            case "context.compacted":
                self.context_tokens = event["tokens_after"]
                self._add(Compacted(seq, at_ms, event), change)
            case "model_call.retrying":
                self._drop_partial(event["model_call_id"], change)
                wait = duration(max(event["retry_at_ms"] - at_ms, 0))
                self._note(record, change, f"retrying in {wait}: {event['code']}: {event['message']}", "warning")
            case "model_call.died":
                self._drop_partial(event["model_call_id"], change)
                self._note(record, change, "the model call was cut off; it is made again", "warning")
            case "budget.warned":
                text = f"most of the budget of {account_text(event['standing'])} is used"
                self._note(record, change, text, "warning")
            case "budget.stopped":
                self._note(record, change, f"the budget of {account_text(event['standing'])} is used up", "warning")
            case "tool_call.decided" if call is not None:
                if event["behavior"] == "deny":
                    call.phase = "denied"
                    call.reason = _because(f"rule {event['rule']}", event.get("reason", ""))
                _touch(call, change)
            case "tool_call.started" if call is not None:
                call.phase, call.attempt = "running", event["attempt"]
                call.started_at_ms = event["at_ms"]
                _touch(call, change)
            case "tool_call.completed" if call is not None:
                if call.phase != "denied":
                    call.phase = "done"
                call.output, call.is_error = event["output"], event.get("is_error", False)
                call.blob, call.output_bytes = event.get("blob", ""), event.get("output_bytes", 0)
                call.metadata, call.finished_at_ms = event.get("metadata", {}), event["at_ms"]
                _touch(call, change)
            case "tool_call.died" if call is not None:
                call.reason = "cut off; it runs again"
                _touch(call, change)
            case "tool_call.became_uncertain" if call is not None:
                call.phase, call.reason = "uncertain", "nobody knows whether it took effect"
                _touch(call, change)
            case "approval.requested":
                if call is None:
                    id_ = event["tool_call_id"] or event["request_id"]
                    call = self._new_call(record, id_, event["tool"], event["arguments"], change)
                call.request, call.phase, call.answer = _as_view(event, self.session_id), "waiting", ""
                self.asks[event["request_id"]] = call
                _touch(call, change)
            case "approval.resolved":
                asked = self.asks.pop(event["request_id"], None)
                if isinstance(asked, Call):
                    edited = event.get("updated_input")
                    if edited is not None:
                        asked.arguments = edited
                    how = RESOLVED[event["resolution"]] + " with other arguments" * (edited is not None)
                    asked.answer = _because(f"{how} by {event['principal']}", event.get("justification", ""))
                    asked.phase = "denied" if event["resolution"] in ("deny", "stop") else "asked"
                    _touch(asked, change)
            case "approval.withdrawn":
                asked = self.asks.pop(event["request_id"], None)
                if asked is not None:
                    if isinstance(asked, Call) and asked.phase == "waiting":
                        asked.phase, asked.answer = "asked", _because("withdrawn", event["reason"])
                    _touch(asked, change)
            case "question.requested":
                asked = Asked(seq, at_ms, _as_view(event, self.session_id))
                self.asks[event["request_id"]] = asked
                self._add(asked, change)
            case "question.answered":
                self._answered(event, change)
            case "question.withdrawn":
                asked = self.asks.pop(event["request_id"], None)
                if isinstance(asked, Asked):
                    asked.answer = _because("withdrawn", event["reason"])
                    _touch(asked, change)

    def _new_call(
        self, record: RecordView, tool_call_id: str, tool: str, arguments: dict[str, Any], change: Change
    ) -> Call:
        call = Call(record["seq"], record["at_ms"], tool_call_id, tool, arguments)
        self._calls[tool_call_id] = call
        self._add(call, change)
        return call

    def _reply_whole(self, event: Any, record: RecordView, change: Change) -> None:
        reply = self._reply
        if reply is None or reply.model_call_id != event["model_call_id"]:
            reply = None
        if event["text"] or event.get("reasoning"):
            if reply is None:
                reply = Reply(record["seq"], record["at_ms"], event["model_call_id"])
                self._add(reply, change)
            else:
                _touch(reply, change)
            reply.text, reply.reasoning = event["text"], event.get("reasoning", "")
            reply.seq, reply.at_ms = record["seq"], record["at_ms"]
            reply.is_open = False
        elif reply is not None:
            self._drop_partial(event["model_call_id"], change)
        self._reply, self._calling = None, ""
        self.context_tokens = self._count(event)
        for request in event.get("tool_requests", ()):
            if request["tool"] != "ask_user_question":
                self._new_call(record, request["tool_call_id"], request["tool"], request["arguments"], change)

    def _count(self, event: Any) -> int:
        """The tokens that a model call took in all."""
        usage = event.get("usage", {})
        for name in self.usage:
            self.usage[name] += usage.get(name, 0)
        return _tokens_of(usage)

    def _drop_partial(self, model_call_id: str, change: Change) -> None:
        """The text of an attempt that came to nothing is no part of the transcript; that of the next comes below."""
        if self._reply is not None and self._reply.model_call_id == model_call_id:
            self._reply.text = self._reply.reasoning = self._reply.model_call_id = ""
            self._close_reply(change)

    def _answered(self, event: Any, change: Change) -> None:
        asked = self.asks.pop(event["request_id"], None)
        if not isinstance(asked, Asked):
            return
        asked.by = event["principal"]
        if event.get("declined"):
            asked.answer = _because("declined", event.get("justification", ""))
        else:
            by_id = {q["id"]: q for q in asked.request["questions"]}
            for answer in event.get("answers", ()):
                question = by_id.get(answer["question_id"], {})
                labels = {o["id"]: o["label"] for o in question.get("options", ())}
                chosen = [labels.get(o, o) for o in answer.get("selected_option_ids", ())]
                text = ", ".join([*chosen, *filter(None, [answer.get("freeform_answer", "")])])
                asked.answers.append((question.get("question", ""), text))
            asked.answer = "answered"
        _touch(asked, change)


def _tokens_of(usage: Any) -> int:
    names = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
    return sum(usage.get(name, 0) for name in names)


def _touch(entry: Entry, change: Change) -> None:
    entry.revision += 1
    if entry not in change.added:
        change.changed.append(entry)


def _because(what: str, reason: str) -> str:
    return f"{what}: {reason}" if reason else what


def duration(ms: int) -> str:
    """`0.4s`, `12s`, `3m 5s`, `2h 1m`."""
    seconds = ms / 1000
    if seconds < 10:
        return f"{seconds:.1f}s"
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m {rest}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60}m"
