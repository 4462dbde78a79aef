"""Properties that hold for every life of a session: any commands, any outcomes, a death at any record."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kheish.core import commands as c
from kheish.core.codec import decode_events, decode_state, encode_state
from kheish.core.machine import evolve, pending
from kheish.core.state import State
from kheish.errors import KheishError
from tests.core.conversation import Conversation
from tests.core.test_machine import ASK
from tests.core.world import Reply, World, check_transcript

CALLS = st.sampled_from(
    [
        ("read_file", {"path": "a"}),
        ("write_file", {"path": "a", "content": "x"}),
        ("bash", {"command": "make"}),
        ("send_mail", {"to": "x"}),
        ("ask_user_question", ASK),
        ("unknown", {}),
    ]
)
REPLIES = st.lists(st.tuples(st.text(max_size=5), st.lists(CALLS, max_size=3).map(tuple)), max_size=4)
MODES = st.sampled_from(["default", "accept_edits", "plan", "dont_ask", "bypass"])
INPUTS = st.lists(st.sampled_from(["queue", "steer", "interrupt"]), min_size=1, max_size=3)

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def live(mode: Any, inputs: list[Any], replies: list[Reply]) -> tuple[Conversation, World]:
    talk = Conversation(mode=mode)
    world = World(talk, replies)
    for number, delivery in enumerate(inputs):
        talk.submit(f"input {number}", delivery=delivery, key=f"k{number}", body_digest="d")
        world.step()
    world.settle()
    return talk, world


@QUICK
@given(MODES, INPUTS, REPLIES)
def test_every_life_comes_to_rest_in_a_sound_state(mode: str, inputs: list[str], replies: list[Reply]) -> None:
    talk, world = live(mode, inputs, replies)
    assert not talk.state.active
    assert not talk.state.queue
    assert all(run.is_terminal for run in talk.state.runs.values())
    assert pending(talk.state) == []
    assert talk.state.processes == {}
    assert all(count == 1 for count in world.effects.values())
    check_transcript(talk)


@QUICK
@given(MODES, INPUTS, REPLIES, st.data())
def test_a_checkpoint_and_its_tail_make_the_same_state(
    mode: str, inputs: list[str], replies: list[Reply], data: st.DataObject
) -> None:
    talk, _ = live(mode, inputs, replies)
    cut = data.draw(st.integers(0, len(talk.journal)))
    state, before = State(), []
    for position, (raw, context) in enumerate(talk.journal):
        if position == cut:
            before = state.entered
            state = decode_state(encode_state(state))
        for event in decode_events(raw):
            evolve(state, event, context)
    assert encode_state(state) == encode_state(talk.state)
    assert before + state.entered == talk.messages


@settings(QUICK, max_examples=25)
@given(MODES, INPUTS, REPLIES)
def test_cut_anywhere_the_session_recovers_and_comes_to_rest(
    mode: str, inputs: list[str], replies: list[Reply]
) -> None:
    """The cut sweep: keep each prefix of the records, recover, let the client repeat its requests, and go on."""
    whole, _ = live(mode, inputs, replies)
    for cut in range(1, len(whole.journal)):
        talk = Conversation(mode=mode)  # type: ignore[arg-type]
        talk.journal = whole.journal[:cut]
        talk.clock = whole.clock
        starts: dict[str, int] = {}
        world = World(talk, replies)
        talk.die()
        check_transcript(talk)
        world.settle()
        for number in range(len(inputs)):
            talk.submit(f"input {number}", key=f"k{number}", body_digest="d")
            world.settle()
        assert all(run.is_terminal for run in talk.state.runs.values())
        assert pending(talk.state) == []
        assert talk.state.processes == {}
        assert len(talk.state.keys) == len(inputs), "no input twice, none lost"
        for raw, _ in talk.journal:
            for event in raw_events(raw):
                if event["type"] == "tool_call.started":
                    starts[f"{event['tool_call_id']}/{event['attempt']}"] = (
                        starts.get(f"{event['tool_call_id']}/{event['attempt']}", 0) + 1
                    )
        assert all(count == 1 for count in starts.values()), "a journaled start is journaled once"
        assert all(world.effects[key] <= starts.get(key, 0) for key in world.effects)
        check_transcript(talk)


def raw_events(raw: bytes) -> list[dict[str, Any]]:
    import orjson

    events: list[dict[str, Any]] = orjson.loads(raw)
    return events


@QUICK
@given(INPUTS, REPLIES, st.data())
def test_cancel_at_any_moment_ends_the_run_and_leaves_a_sound_transcript(
    inputs: list[str], replies: list[Reply], data: st.DataObject
) -> None:
    talk = Conversation()
    world = World(talk, replies)
    for delivery in inputs:
        talk.submit("go", delivery=delivery)
    for _ in range(data.draw(st.integers(0, 12))):
        if not world.step():
            break
    for run_id in list(talk.state.runs):
        talk.send(c.CancelRun(run_id=run_id))
    assert not talk.state.active
    world.settle()
    assert not talk.state.approvals
    assert not talk.state.questions
    assert talk.state.processes == {}
    check_transcript(talk)


@QUICK
@given(st.lists(st.integers(0, 11), max_size=25), REPLIES)
def test_any_sequence_of_commands_is_refused_or_leaves_a_sound_state(choices: list[int], replies: list[Reply]) -> None:
    talk = Conversation()
    world = World(talk, replies)
    for choice in choices:
        try:
            match choice:
                case 0 | 1:
                    talk.submit("go", delivery=("queue", "steer")[choice])
                case 2:
                    talk.submit("go", delivery="interrupt")
                case 3:
                    talk.send(c.InterruptSession())
                case 4 if talk.state.queue:
                    talk.send(c.EditRun(run_id=talk.state.queue[0], text="changed"))
                case 5 if talk.state.queue:
                    talk.send(c.MoveRun(run_id=talk.state.queue[-1], position=1))
                case 5:
                    talk.die()
                case 6 if talk.state.active:
                    talk.send(c.CancelRun(run_id=talk.state.active))
                case 7:
                    talk.resolve("deny", request_id="approval_none")
                case 10:
                    talk.send(c.PauseQueue())
                case 11:
                    talk.send(c.ResumeQueue())
                case _:
                    world.step()
        except KheishError:
            pass
        check_transcript(talk)
        active = [run for run in talk.state.runs.values() if run.phase == "running"]
        assert [run.run_id for run in active] == ([talk.state.active] if talk.state.active else [])
        assert talk.state.active or talk.state.queue_paused or not talk.state.queue
    talk.send(c.ResumeQueue())
    world.settle()
    assert all(run.is_terminal for run in talk.state.runs.values())
