"""The plan of a run follows from its last `todo_write` that succeeded, and from nothing else."""

from __future__ import annotations

from typing import Any

from kheish.core.commands import AddRule
from kheish.wire.runs import run_view
from tests.core.conversation import Conversation, rule


def todos(*items: tuple[str, str]) -> tuple[str, dict[str, Any]]:
    return "todo_write", {"todos": [{"content": content, "status": status} for content, status in items]}


def plan_of(talk: Conversation, run_id: str) -> list[tuple[str, str]]:
    return [(item.content, item.status) for item in run_view(talk.state, talk.state.runs[run_id]).plan]


def test_the_last_list_counts_and_outlives_its_step_a_death_and_the_run() -> None:
    talk = Conversation()
    run_id = talk.submit("go")
    talk.reply("", todos(("look", "in_progress"), ("mend", "pending")))
    assert plan_of(talk, run_id) == [], "it is said, but not taken yet"
    talk.finish_tool(talk.tool_effect())
    assert plan_of(talk, run_id) == [("look", "in_progress"), ("mend", "pending")]
    talk.reply("", todos(("look", "completed"), ("mend", "in_progress")))
    talk.finish_tool(talk.tool_effect())
    talk.die()
    talk.reply("It is done.")
    assert plan_of(talk, run_id) == [("look", "completed"), ("mend", "in_progress")]
    other = talk.submit("more")
    assert plan_of(talk, other) == [], "another run has its own"


def test_a_call_that_failed_leaves_the_plan_as_it_was() -> None:
    talk = Conversation()
    run_id = talk.submit("go")
    talk.reply("", todos(("look", "pending")))
    talk.finish_tool(talk.tool_effect())
    talk.reply("", todos())
    talk.finish_tool(talk.tool_effect(), is_error=True)
    assert plan_of(talk, run_id) == [("look", "pending")]


def test_what_a_human_made_of_the_list_is_the_plan() -> None:
    talk = Conversation()
    run_id = talk.submit("go")
    talk.send(AddRule(rule=rule("todo_write", "ask")))
    talk.reply("", todos(("look", "pending")))
    talk.resolve("allow", updated_input=todos(("look twice", "pending"))[1])
    talk.finish_tool(talk.tool_effect())
    assert plan_of(talk, run_id) == [("look twice", "pending")]


def test_arguments_of_another_form_are_no_plan_and_no_fault() -> None:
    talk = Conversation()
    run_id = talk.submit("go")
    nameless, numbered = [{"status": "pending"}], [{"content": "x", "status": 1}]
    for arguments in ({}, {"todos": "look"}, {"todos": nameless}, {"todos": numbered}):
        talk.reply("", ("todo_write", arguments))
        talk.finish_tool(talk.tool_effect())
        assert plan_of(talk, run_id) == []
