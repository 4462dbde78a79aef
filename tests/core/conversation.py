"""Talks to the machine as the runtime does, with a world made of plain values."""

from __future__ import annotations

from typing import Any

from kheish.core import commands as c
from kheish.core import outcomes as o
from kheish.core.codec import decode_events, decode_state, encode_events, encode_state
from kheish.core.compaction import divide
from kheish.core.contracts import Reply, ReplyToolCall, ToolSpec
from kheish.core.draft import Settings
from kheish.core.effects import AnyEffect, CallModel, EndProcess, RunTool, WakeAt
from kheish.core.events import Answer, Behavior, Cooling, Event, Message, Process, Rule, RuleScope, Usage, UserMessage
from kheish.core.machine import decide, evolve, fold, pending
from kheish.core.permissions import DEFAULT_RULES
from kheish.core.state import State, status_of

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def spec(name: str, effect: Any, kind: Any = "function", main: str = "") -> ToolSpec:
    def check(arguments: dict[str, Any]) -> str:
        return "unknown argument 'bad'" if "bad" in arguments else ""

    return ToolSpec(
        name=name,
        description="",
        input_schema={},
        effect=effect,
        kind=kind,
        main_argument=main,
        timeout_ms=1000,
        check=check,
    )


TOOLS = {
    "bash": spec("bash", "unsafe", "process", "command"),
    "read_file": spec("read_file", "read", main="path"),
    "write_file": spec("write_file", "idempotent", main="path"),
    "send_mail": spec("send_mail", "unsafe", main="to"),
    "ask_user_question": spec("ask_user_question", "read", "question"),
    "todo_write": spec("todo_write", "read"),
}
SETTINGS = Settings(tools=TOOLS, rules=DEFAULT_RULES, policy_revision="p1")


class Conversation:
    """Holds the journal (records of encoded events with their context) beside the state."""

    def __init__(self, *, mode: Any = "default", settings: Settings = SETTINGS) -> None:
        self.state = State()
        self.settings = settings
        self.journal: list[tuple[bytes, c.Context]] = []
        self.clock = 0
        self.generation = 1
        self.pids = 100
        self.cooling: tuple[Cooling, ...] = ()
        self.outside: tuple[c.Outside, ...] = ()
        self.send(c.CreateSession(session_id="s", cwd="/work", mode=mode))

    @property
    def messages(self) -> list[Message]:
        """The transcript, as the journal tells it."""
        return fold((decode_events(raw), context) for raw, context in self.journal).entered

    @property
    def shown(self) -> list[Message]:
        """What models are shown of it."""
        return self.state.shown if self.state.compactions else self.messages

    @property
    def purpose(self) -> str:
        """Of the model call that is due."""
        run = self.state.active_run
        return run.model_call.purpose if run and run.model_call else ""

    def context(self, **fields: Any) -> c.Context:
        self.clock += 1
        number = self.clock
        digits = ""
        for _ in range(8):
            digits = ALPHABET[number & 31] + digits
            number >>= 5
        defaults: dict[str, Any] = {
            "principal": "user:1",
            "origin": "test",
            "is_operator": True,
            "cooling": self.cooling,
            "outside": self.outside,
            "day": "2026-11-26",
        }
        return c.Context(
            at_ms=self.clock,
            id_base=f"{digits}{'0' * 18}",
            generation=self.generation,
            **(defaults | fields),
        )

    def send(self, message: c.Command | o.Outcome, **fields: Any) -> list[Event]:
        """Decides, journals and checks that the fold of the record is the decision's own state."""
        context = self.context(**fields)
        before = encode_state(self.state)
        decision = decide(self.state, message, context, self.settings)
        assert encode_state(self.state) == before, "decide changed its input"
        folded = decode_state(before)
        raw = encode_events(decision.events)
        for event in decode_events(raw):
            evolve(folded, event, context)
        assert encode_state(folded) == encode_state(decision.state)
        if decision.events:
            self.journal.append((raw, context))
        self.state = decision.state
        self.result = decision.result
        return list(decision.events)

    # -- the caller --------------------------------------------------------------------------------------------

    def submit(self, text: str, **fields: Any) -> str:
        keys = {k: fields.pop(k) for k in ("key", "body_digest", "principal", "is_operator") if k in fields}
        self.send(c.SubmitRun(**{"text": text, "route": "r", "model": "m", **fields}), **keys)
        return self.result

    def resolve(self, resolution: Any = "allow", **fields: Any) -> list[Event]:
        request_id = fields.pop("request_id", None) or next(iter(self.state.approvals))
        item = c.ApprovalResolution(request_id=request_id, resolution=resolution, **fields)
        return self.send(c.ResolveApprovals(resolutions=(item,)))

    def answer(self, text: str = "yes") -> list[Event]:
        pending_question = next(iter(self.state.questions.values()))
        answers = tuple(Answer(question_id=q.id, freeform_answer=text) for q in pending_question.questions)
        return self.send(c.AnswerQuestion(request_id=pending_question.request_id, answers=answers))

    # -- the world ---------------------------------------------------------------------------------------------

    def effects(self) -> list[AnyEffect]:
        return pending(self.state)

    def reply(
        self,
        text: str = "",
        *calls: tuple[str, dict[str, Any]],
        stop: Any = None,
        usage: Usage = Usage(),
        cost_usd: float | None = None,
    ) -> list[Event]:
        effect = next(e for e in self.effects() if isinstance(e, CallModel))
        reply = Reply(
            text=text,
            stop_reason=stop or ("tool_use" if calls else "end"),
            tool_calls=tuple(
                ReplyToolCall(provider_id=f"p{i}", tool=tool, arguments=arguments)
                for i, (tool, arguments) in enumerate(calls)
            ),
            usage=usage,
        )
        return self.send(
            o.ModelReplied(
                run_id=effect.run_id,
                model_call_id=effect.model_call_id,
                attempt=effect.attempt,
                reply=reply,
                cost_usd=cost_usd,
            )
        )

    def sum_up(self, text: str = "what was said", kept_tokens: int = 40) -> list[Event]:
        """A model writes the summary that is due; "" is no summary. As the runtime does, but keeping far less."""
        effect = next(e for e in self.effects() if isinstance(e, CallModel))
        run = self.state.runs[effect.run_id]
        own = UserMessage(text=run.text, attachments=run.attachments)
        plan = divide(self.shown, own, kept_tokens, 4 * kept_tokens, self.state.left_out)
        if plan is None or not plan.left_out:
            return self.fail("nothing_to_compact", context=plan.cut if plan else None)
        return self.send(
            o.ModelReplied(
                run_id=effect.run_id,
                model_call_id=effect.model_call_id,
                attempt=effect.attempt,
                reply=Reply(text=text, stop_reason="end"),
                context=plan.with_summary(text) if text else plan.cut,
            )
        )

    def fail(self, code: str, **fields: Any) -> list[Event]:
        effect = next(e for e in self.effects() if isinstance(e, CallModel))
        return self.send(
            o.ModelFailed(
                run_id=effect.run_id,
                model_call_id=effect.model_call_id,
                attempt=effect.attempt,
                code=code,
                message=code,
                **fields,
            )
        )

    def wake(self) -> list[Event]:
        """The pause before another attempt is over."""
        wake = next(e for e in self.effects() if isinstance(e, WakeAt))
        self.clock = max(self.clock, wake.at_ms)
        return self.send(o.RetryDue(run_id=wake.run_id, model_call_id=wake.model_call_id, attempt=wake.attempt))

    def start_process(self, effect: RunTool) -> list[Event]:
        self.pids += 1
        return self.send(
            o.ToolProcessMade(
                run_id=effect.run_id,
                tool_call_id=effect.tool_call_id,
                process=Process(pid=self.pids, start_ticks=1),
            )
        )

    def finish_tool(self, effect: RunTool, output: str = "ok", **fields: Any) -> list[Event]:
        return self.send(
            o.ToolFinished(run_id=effect.run_id, tool_call_id=effect.tool_call_id, output=output, **fields)
        )

    def end_process(self, effect: EndProcess) -> list[Event]:
        return self.send(o.ProcessGone(tool_call_id=effect.tool_call_id, pid=effect.process.pid, killed=True))

    def tool_effect(self) -> RunTool:
        return next(e for e in self.effects() if isinstance(e, RunTool))

    def die(self, *, was_stopped: bool = False) -> list[Event]:
        """The daemon is killed, or told to stop: only the journal remains; the next one folds it and recovers."""
        state = State()
        for raw, context in self.journal:
            for event in decode_events(raw):
                evolve(state, event, context)
        self.state = state
        self.generation += 1
        return self.send(c.Recover(was_stopped=was_stopped), principal="daemon", origin="recovery")

    def status(self, run_id: str) -> str:
        return status_of(self.state, self.state.runs[run_id])


def rule(pattern: str, behavior: Behavior = "allow", scope: RuleScope = "session") -> Rule:
    return Rule(pattern=pattern, behavior=behavior, scope=scope)
