"""Lives in a world that is not kind: whatever may come to a session, in any order, from a seed.

What `test_properties` leaves out: calls that fail, chains, budgets, compactions, hundreds of calls at once, edits,
rules and modes that change, daemons that die and come back with other rules, reports that come too late. After each
message the state is looked at; a request that goes to a model is looked at as its provider would.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, get_args

import pytest
from msgspec.structs import replace

from kheish.core import commands as c
from kheish.core import events as e
from kheish.core import outcomes as o
from kheish.core.approvals import VERBS
from kheish.core.codec import call_digest, decode_events, encode_state
from kheish.core.compaction import divide, shorten
from kheish.core.contracts import Reply, ReplyToolCall
from kheish.core.effects import AnyEffect, CallModel, EndProcess, RunTool, WakeAt
from kheish.core.machine import fold, pending
from kheish.core.model_calls import FAILURES
from kheish.core.permissions import DEFAULT_RULES, MODES
from kheish.core.prompt import build_request
from kheish.core.state import Approval, Run
from kheish.errors import Conflict, KheishError
from kheish.limits import TOOL_CALLS_PARALLEL_MAX
from kheish.providers.anthropic import to_body
from tests.core.conversation import SETTINGS, Conversation, rule
from tests.core.test_machine import ASK
from tests.core.world import check_transcript

MOVES = 60
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("read_file", {"path": "a"}),
    ("write_file", {"path": "a", "content": "x"}),
    ("bash", {"command": "make"}),
    ("send_mail", {"to": "x"}),
    ("ask_user_question", ASK),
    ("todo_write", {"todos": [{"content": "x", "status": "pending"}]}),
    ("unknown", {}),
    ("read_file", {"bad": 1}),
]
HOPS = (
    e.Hop(route="a", model="m", window_tokens=4_096),
    e.Hop(route="b", model="n", on=("overloaded",), window_tokens=200_000),
    e.Hop(route="c", model="o"),
)
PATTERNS = ["bash(make*)", "send_mail", "write_file(a)", "ask_user_question"]
SETTLES: dict[str, e.Resolution] = {"tool_call": "deny", "uncertain": "mark_done", "budget": "stop"}


class Remembering(Conversation):
    """Reads the transcript from the journal only after a death: it is looked at after every message."""

    def __init__(self, **fields: Any) -> None:
        self.said: list[e.Message] = []
        super().__init__(**fields)

    @property
    def messages(self) -> list[e.Message]:
        return self.said

    def send(self, message: c.Command | o.Outcome, **fields: Any) -> list[e.Event]:
        if events := super().send(message, **fields):
            self.said = self.said + self.state.entered
        return events

    def die(self) -> list[e.Event]:
        events = super().die()
        self.said = super().messages
        return events


class Life:
    def __init__(self, seed: int) -> None:
        self.draw = draw = random.Random(seed)
        budget = e.Budget(tokens=draw.choice([5_000, 30_000]), steps=draw.choice([None, 3]))
        settings = replace(
            SETTINGS,
            session_budget=budget if draw.random() < 0.3 else e.NO_BUDGET,
            steps_max=draw.choice([500, 6]),
        )
        self.talk = Remembering(mode=draw.choice(["default", "default", *MODES]), settings=settings)
        self.late: list[o.Outcome] = []
        self.keys = 0

    def live(self) -> None:
        for _ in range(MOVES):
            self.move()
            self.check()
        self.talk.send(c.ResumeQueue())
        for _ in range(1_000):
            if not self.settle():
                return
            self.check()
        raise AssertionError("the session never comes to rest")

    # -- what comes ------------------------------------------------------------------------------------------------

    def move(self) -> None:
        effects, chance = self.talk.effects(), self.draw.random()
        if chance < 0.12:
            self.submit()
        elif chance < 0.62 and effects:
            self.perform(self.draw.choice(effects))
        elif chance < 0.74:
            self.decide()
        elif chance < 0.78:
            self.die()
        elif chance < 0.83 and self.late:
            self.talk.send(self.draw.choice(self.late[-3:]))
        else:
            self.command()

    def settle(self) -> bool:
        talk = self.talk
        if effects := talk.effects():
            self.perform(self.draw.choice(effects))
        elif talk.state.approvals:
            talk.resolve(SETTLES[next(iter(talk.state.approvals.values())).kind])
        elif talk.state.questions:
            talk.answer()
        else:
            return False
        return True

    def submit(self) -> None:
        draw, delivery = self.draw, self.draw.choice(get_args(e.Delivery))
        budget = e.Budget(tokens=draw.choice([6_000, 60_000]), steps=draw.choice([None, 1, 3]))
        self.talk.submit(
            f"{self.new_key()} {draw.choice(['go', 'x' * 9_000])}",
            delivery=delivery,
            hops=(hops := draw.choice([(), HOPS, HOPS[:2], HOPS[1:2]])),
            budget=budget if delivery != "steer" and draw.random() < 0.3 else None,
            on_budget=draw.choice(get_args(e.OnBudget)),
            pinned=draw.random() < 0.2,
            window_tokens=0 if hops else draw.choice([0, 5_000]),
        )

    def new_key(self) -> str:
        self.keys += 1
        return f"k{self.keys}"

    def command(self) -> None:
        draw, talk = self.draw, self.talk
        queued = draw.choice(talk.state.queue or [""])
        command = draw.choice(
            [
                c.InterruptSession(),
                c.CancelRun(run_id=draw.choice(list(talk.state.runs) or [""])),
                c.EditRun(run_id=queued, text="edited"),
                c.MoveRun(run_id=queued, position=draw.randrange(4)),
                c.WithdrawRun(run_id=queued),
                c.PauseQueue(),
                c.ResumeQueue(),
                c.SetMode(mode=draw.choice(MODES)),
                c.CompactContext(),
                c.AddRule(rule=rule(draw.choice(PATTERNS), draw.choice(get_args(e.Behavior)))),
                c.SetBudget(budget=draw.choice([e.Budget(tokens=50_000), e.Budget(steps=5), e.Budget(tokens=9_000)])),
                o.BudgetMoved(),
            ]
        )
        talk.clock += draw.choice([0, 0, 100, 100_000])
        talk.cooling = tuple(
            e.Cooling(route=hop.route, model=hop.model, code="overloaded", until_ms=talk.clock + 50)
            for hop in HOPS
            if draw.random() < 0.3
        )
        try:
            talk.send(command)
        except KheishError:
            pass

    def die(self) -> None:
        draw, talk = self.draw, self.talk
        self.late.clear()
        if draw.random() < 0.3:
            more = rule("bash(make)", draw.choice(get_args(e.Behavior)), "user")
            talk.settings = replace(
                talk.settings, rules=(more, *DEFAULT_RULES), policy_revision=f"p{draw.randrange(3)}"
            )
        talk.die()

    def decide(self) -> None:
        draw, talk = self.draw, self.talk
        asked = list(talk.state.approvals.values())
        if talk.state.questions and not (asked and draw.random() < 0.5):
            talk.answer()
        elif asked:
            items = tuple(map(self.resolution, draw.sample(asked, draw.randint(1, min(3, len(asked))))))
            command, key = c.ResolveApprovals(resolutions=items), self.new_key()
            try:
                talk.send(command, key=key, body_digest="d")
            except KheishError:
                return
            after = encode_state(talk.state)
            with pytest.raises(Conflict, match="settled before"):
                talk.send(command)
            assert talk.send(command, key=key, body_digest="d") == [], "the same answer, said again"
            assert encode_state(talk.state) == after

    def resolution(self, approval: Approval) -> c.ApprovalResolution:
        draw, verb = self.draw, self.draw.choice(VERBS[approval.kind])
        edited = {**approval.arguments, "more": 1} if verb in ("allow", "retry") and draw.random() < 0.2 else None
        limited = [d for d in ("tokens", "steps") if approval.standing and getattr(approval.standing.limit, d)]
        return c.ApprovalResolution(
            request_id=approval.request_id,
            resolution=verb,
            updated_input=edited,
            remember="session" if verb in ("allow", "deny") and draw.random() < 0.2 else "once",
            justification=draw.choice(["", "", "because"]),
            raise_by=e.Budget(**dict.fromkeys(limited, 5_000)) if verb == "raise" else None,
        )

    # -- what the world does ---------------------------------------------------------------------------------------

    def perform(self, effect: AnyEffect) -> None:
        draw, talk = self.draw, self.talk
        outcome: o.Outcome
        match effect:
            case CallModel():
                outcome = self.model(effect, talk.state.runs[effect.run_id])
            case WakeAt():
                outcome = o.RetryDue(run_id=effect.run_id, model_call_id=effect.model_call_id, attempt=effect.attempt)
            case EndProcess():
                outcome = o.ProcessGone(tool_call_id=effect.tool_call_id, pid=effect.process.pid, killed=True)
            case RunTool():
                ids = {"run_id": effect.run_id, "tool_call_id": effect.tool_call_id}
                call = next(k for k in talk.state.runs[effect.run_id].calls if k.tool_call_id == effect.tool_call_id)
                talk.pids += 1
                if call.phase == "allowed" and draw.random() < 0.9:
                    outcome = o.ToolProcessMade(**ids, process=e.Process(pid=talk.pids, start_ticks=1))
                else:
                    outcome = o.ToolFinished(**ids, output=draw.choice(["", "ok", "long " * 2_000]))
        self.late.append(outcome)
        talk.send(outcome)

    def model(self, effect: CallModel, run: Run) -> o.Outcome:
        draw, talk, context = self.draw, self.talk, None
        ids = {"run_id": effect.run_id, "model_call_id": effect.model_call_id, "attempt": effect.attempt}
        usage = e.Usage(input_tokens=draw.choice([0, 10, 3_000]), output_tokens=draw.choice([0, 5, 2_000]))
        code = draw.choice([*FAILURES, "session_unreadable"])
        if talk.purpose == "summary":
            own, kept = e.UserMessage(text=run.text, is_pinned=run.pinned), draw.choice([40, 400, 4_000])
            plan = divide(talk.shown, own, kept, 4 * kept, talk.state.left_out)
            if plan is None or not plan.left_out:
                code, context = "too_large" if run.overflows else "nothing_to_compact", plan.cut if plan else None
                return o.ModelFailed(**ids, code=code, message="m", context=context)
            if draw.random() < 0.7:
                text = draw.choice(["gist", "gist", " "])
                context = plan.with_summary(text) if text.strip() else plan.cut
                return o.ModelReplied(**ids, reply=Reply(text=text, stop_reason="end", usage=usage), context=context)
            context = plan.cut
        else:
            self.check_request(run)
            if draw.random() < 0.75:
                return o.ModelReplied(**ids, reply=self.reply(usage))
            if code == "too_large" and not run.overflows:
                context = shorten(talk.shown)
        return o.ModelFailed(
            **ids,
            code=code,
            message="m",
            jitter=draw.random(),
            has_output=draw.random() < 0.5,
            usage=usage,
            context=context,
            retry_after_ms=draw.choice([None, 100, 10**9]),
        )

    def reply(self, usage: e.Usage) -> Reply:
        draw = self.draw
        wanted = draw.choice([0, 0, 1, 1, 2, 3, 20] if draw.random() < 0.98 else [257, 600])
        calls = tuple(
            ReplyToolCall(
                provider_id=f"p{draw.randrange(3)}",
                tool=tool,
                arguments=arguments,
                malformed="{" if draw.random() < 0.05 else "",
            )
            for tool, arguments in draw.choices(CALLS, k=wanted)
        )
        return Reply(
            text=draw.choice(["", " ", "text", "long " * 1_500]),
            stop_reason="tool_use" if calls else draw.choice(["end", "max_tokens", "refused"]),
            tool_calls=calls,
            usage=usage,
        )

    # -- what holds ------------------------------------------------------------------------------------------------

    def check_request(self, run: Run) -> None:
        """A provider takes it: turns by turns, each call with its result in the next, and nothing empty."""
        talk = self.talk
        turns = to_body(build_request(talk.state, run, talk.shown, talk.settings.tools), "s", {})["messages"]
        roles = [turn["role"] for turn in turns]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        asked: list[str] = []
        for turn in turns:
            results = [block["tool_use_id"] for block in turn["content"] if block["type"] == "tool_result"]
            assert results == asked
            assert all(block["type"] == "tool_result" for block in turn["content"][: len(asked)])
            asked = [block["id"] for block in turn["content"] if block["type"] == "tool_use"]

    def check(self) -> None:
        talk, state = self.talk, self.talk.state
        check_transcript(talk)
        run, effects = state.active_run, pending(state)
        runs = {phase: [r.run_id for r in state.runs.values() if r.phase == phase] for phase in ("running", "queued")}
        assert runs["running"] == [state.active] * bool(state.active)
        assert sorted(runs["queued"]) == sorted(state.queue)
        assert state.active or state.queue_paused or not state.queue, "the queue goes on"
        assert not any(r.model_call or r.calls or r.steered for r in state.runs.values() if r.is_terminal)
        asked = [*state.approvals.values(), *state.questions.values()]
        assert not run or effects or asked, "an active run is at work, or waits for somebody"
        assert all(request.run_id == state.active for request in asked)
        calls = {call.tool_call_id: call for call in run.calls} if run else {}
        waiting = Counter(request.tool_call_id for request in asked if request.tool_call_id)
        assert waiting == Counter(id_ for id_, call in calls.items() if call.phase in ("waiting", "uncertain"))
        for approval in state.approvals.values():
            if approval.kind == "tool_call":
                arguments = calls[approval.tool_call_id].arguments
                digest = call_digest(approval.tool, arguments, state.cwd, approval.policy_revision)
                assert approval.digest == digest, "what is shown is what would run"
        phases = Counter(call.phase for call in calls.values())
        is_put_off = any(call.phase == "allowed" and call.kind == "function" for call in calls.values())
        assert not phases["requested"]
        assert not is_put_off or phases["started"] >= TOOL_CALLS_PARALLEL_MAX
        assert len({effect.effect_id for effect in effects}) == len(effects)
        assert state.used.tokens == sum(r.used.tokens for r in state.runs.values())

    def check_journal(self) -> None:
        """Each start once, and none of what was denied; each attempt has its own end; what steered a run that completed
        entered it, once."""
        records = [(decode_events(raw), context) for raw, context in self.talk.journal]
        events = [event for made, _ in records for event in made]
        starts = Counter((ev.tool_call_id, ev.attempt) for ev in events if isinstance(ev, e.ToolCallStarted))
        denied = {ev.tool_call_id for ev in events if isinstance(ev, e.ToolCallDecided) and ev.behavior == "deny"}
        assert not starts or max(starts.values()) == 1
        assert denied.isdisjoint(id_ for id_, _ in starts)
        began = ("", 0)
        for ev in events:
            if isinstance(ev, e.ModelCallStarted):
                began = ev.model_call_id, ev.attempt
            elif isinstance(ev, e.ModelCallCompleted | e.ModelCallRetrying | e.ModelCallFailed):
                assert (ev.model_call_id, ev.attempt) == began
        entered = Counter(ev.input_id for ev in events if isinstance(ev, e.InputEntered))
        taken = entered + Counter(ev.input_id for ev in events if isinstance(ev, e.RunSubmitted) and ev.input_id)
        ended = {ev.run_id for ev in events if isinstance(ev, e.RunCompleted | e.RunFailed)}
        steered = [ev for ev in events if isinstance(ev, e.InputSteered) and not ev.is_remark]
        assert all(taken[ev.input_id] == 1 for ev in steered if ev.run_id in ended)
        assert not taken or max(taken.values()) == 1
        ends = Counter(
            ev.run_id
            for ev in events
            if isinstance(ev, e.RunCompleted | e.RunFailed | e.RunCancelled | e.RunInterrupted)
        )
        assert ends == Counter(list(self.talk.state.runs))
        assert encode_state(fold(records)) == encode_state(self.talk.state)


@pytest.mark.parametrize("seed", range(60))
def test_whatever_comes_a_session_stays_sound_and_comes_to_rest(seed: int) -> None:
    life = Life(seed)
    life.live()
    state = life.talk.state
    assert not (state.active or state.queue or state.approvals or state.questions or state.processes)
    assert pending(state) == []
    life.check_journal()
