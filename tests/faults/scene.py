"""The scripted scene: a model with a script, a workspace with a few commands, and a human who works through it.

`work`: a run with parallel tool calls (reads, an idempotent write, an unsafe command, a large output), then an approval
and a question at once, while which one input is steered in and another queued; the queued run has a model call that
fails once, an approval that is remembered for always, and an unsafe command that a rule allows. `side`: a run that is
cancelled in the middle of a command, with another one queued behind it. `last`: a call that is denied and one that is
edited; then a run that is interrupted in the middle of a command, and the session's end. `long`: runs that fill a small
window, so that a summary takes the place of what was said.

The human acts only where the scene stands still, so that every life goes through the same states: it does not matter
how often the daemon died before.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from tests.daemon_process import DaemonProcess, Json, bash, calls, text, tool

if TYPE_CHECKING:
    from tests.faults.life import Life

SESSIONS = ("work", "side", "last", "long")
ROUTES = """\
version = 1
default_route = "work"

[routes.work]
driver = "scripted"
default_model = "work.json"

[routes.side]
driver = "scripted"
default_model = "side.json"

[routes.last]
driver = "scripted"
default_model = "last.json"

[routes.long]
driver = "scripted"
default_model = "long.json"
context_tokens = 4096
"""
CONFIG = """\
[permissions]
allow = ["write_file", "bash(sh count.sh one)", "bash(sh big.sh)", "bash(sh count.sh four)", "bash(sh endless.sh)",
  "bash(sh idle.sh)"]
"""
FILES = {
    "notes/first.txt": "the first note\nthe second line\n",
    "count.sh": 'printf "%s\\n" "$1" >> count.log\necho "counted $1"\n',
    "big.sh": 'sh count.sh big\ni=0\nwhile [ $i -lt 1200 ]; do echo "line $i of a large output"; i=$((i+1)); done\n',
    "endless.sh": "setsid sleep 300 &\nsh count.sh endless\nsleep 300\n",
    "idle.sh": "sh count.sh idle\nsleep 300\n",
}
COMMANDS = {
    "sh count.sh one": "one",
    "sh big.sh": "big",
    "sh count.sh two": "two",
    "sh count.sh three": "three",
    "sh count.sh four": "four",
    "sh endless.sh": "endless",
    "sh count.sh five": "five",
    "sh count.sh six": "seven",
    "sh idle.sh": "idle",
}
"""Each unsafe command with the line that it adds to count.log when it runs; `six` is edited."""
DENIED = {"five"}
STOPPED = {"endless", "idle"}
LEFT_IN_DOUBT = {"sh endless.sh", "sh idle.sh"}
"""Commands that the human stops, whether they run or nobody knows."""
REMEMBERED = "bash(sh count.sh three)"
QUESTION = {
    "questions": [{"question": "Which way?", "header": "Way", "options": [{"label": "left"}, {"label": "right"}]}]
}
ATTACHMENT = base64.b64encode(bytes(range(256)) * 80).decode()

WORK = (
    calls(
        tool("read_file", path="notes/first.txt"),
        tool("list_files", path="notes"),
        tool("grep_search", pattern="second", path="notes"),
        tool("write_file", path="plan.md", content="# The plan\n\nCount.\n"),
        tool("bash", command="sh count.sh one"),
        tool("bash", command="sh big.sh"),
    ),
    calls(
        tool("bash", command="sh count.sh two"),
        tool("ask_user_question", **QUESTION),
        tool("write_file", path="folder/second.md", content="second\n"),
    ),
    text("the first is done"),
    {**bash("sh count.sh three"), "error": {"code": "overloaded"}},
    bash("sh count.sh four"),
    text("the second is done"),
)
SIDE = (
    text("the last is done", when="after the cancel"),
    text("", when="outcome of this call is unknown", hang=1_000),
    bash("sh endless.sh"),
)
LAST = (
    bash("sh count.sh five"),
    bash("sh count.sh six"),
    text("the third is done"),
)
LONG = (text("a long story " * 500), text("another one " * 500), text("the end"))
IDLE = (
    text("", when="outcome of this call is unknown", hang=1_000),
    bash("sh idle.sh"),
)


def prepare(daemon: DaemonProcess) -> None:
    (daemon.config / "routes.toml").write_text(ROUTES)
    (daemon.config / "config.toml").write_text(CONFIG)
    daemon.script(*WORK, name="work.json")
    daemon.script(*SIDE, name="side.json")
    daemon.script(*LAST, name="last.json")
    daemon.script(*LONG, name="long.json")
    daemon.script(*IDLE, name="idle.json", after_last="repeat")
    for name, content in FILES.items():
        path = daemon.work / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)


def counted(daemon: DaemonProcess) -> list[str]:
    """What ran, as the commands themselves noted it."""
    log = daemon.work / "count.log"
    return log.read_text().splitlines() if log.exists() else []


def request_for(command: str, facts: list[Json]) -> Json | None:
    """The first approval that was asked for this command."""
    for fact in facts:
        if fact["type"] == "approval.requested" and fact["arguments"].get("command") == command:
            return fact
    return None


def first(type_: str, facts: list[Json], **fields: Any) -> Json | None:
    for fact in facts:
        if fact["type"] == type_ and all(fact.get(name) == value for name, value in fields.items()):
            return fact
    return None


def is_given_up(facts: list[Json]) -> bool:
    """Whether the daemon died so often in one model call that it is not made again."""
    return first("model_call.failed", facts, code="daemon_died") is not None


def living(facts: list[Json]) -> set[str]:
    """The tool calls whose processes nobody has seen end."""
    begun = {fact["tool_call_id"] for fact in facts if fact["type"] == "tool_call.started" and fact.get("process")}
    return begun - {fact["tool_call_id"] for fact in facts if fact["type"] in ("tool_call.completed", "process.ended")}


async def play(life: Life) -> None:
    """The human. Every act is repeated, with the same key, until it is acknowledged."""
    await life.create("work")
    run = await life.submit("work", "the first")
    approval = await life.until("work", lambda facts: request_for("sh count.sh two", facts))
    question = await life.until("work", lambda facts: first("question.requested", facts))
    await life.submit("work", "by the way", delivery="steer")
    attachment = {"file_name": "bytes.bin", "media_type": "application/octet-stream", "content_base64": ATTACHMENT}
    second = await life.submit("work", "the second", attachments=[attachment])
    await life.until_put_away()
    await life.answer(question["request_id"], "1")
    await life.resolve(approval["request_id"], "allow", if_digest=approval["digest"])
    await life.until("work", lambda facts: first("run.completed", facts, run_id=run))
    approval = await life.until("work", lambda facts: request_for("sh count.sh three", facts))
    await life.resolve(approval["request_id"], "allow", remember="always")
    await life.until("work", lambda facts: first("run.completed", facts, run_id=second))

    await life.create("side")
    run = await life.submit("side", "the endless", model="side/side.json")
    last = await life.submit("side", "after the cancel", model="side/side.json")
    await until_runs(life, "side", "endless")
    await life.cancel("side", run)
    await life.until("side", lambda facts: first("run.completed", facts, run_id=last))

    await life.create("last")
    run = await life.submit("last", "the third", model="last/last.json")
    approval = await life.until("last", lambda facts: request_for("sh count.sh five", facts))
    await life.resolve(approval["request_id"], "deny", "last", justification="not this one")
    approval = await life.until("last", lambda facts: request_for("sh count.sh six", facts))
    await life.resolve(approval["request_id"], "allow", "last", updated_input={"command": "sh count.sh seven"})
    await life.until("last", lambda facts: first("run.completed", facts, run_id=run))
    await life.submit("last", "the idle", model="last/idle.json")
    await until_runs(life, "last", "idle")
    await life.interrupt("last")
    await life.end("last")
    await life.until("last", lambda facts: not living(facts))

    await life.create("long")
    for input_ in ("the long", "the longer", "the longest"):
        run = await life.submit("long", input_, model="long/long.json")
        await life.until("long", lambda facts, run=run: first("run.completed", facts, run_id=run))
    await life.until("long", lambda facts: first("context.compacted", facts))


def is_in_doubt(command: str, facts: list[Json]) -> bool:
    requests = [request for fact in facts for request in fact.get("tool_requests", ())]
    asked = {request["tool_call_id"] for request in requests if request["arguments"].get("command") == command}
    return any(fact["type"] == "tool_call.became_uncertain" and fact["tool_call_id"] in asked for fact in facts)


async def until_runs(life: Life, session_id: str, name: str) -> None:
    """Until a command has noted that it runs, or nobody knows whether it does."""
    await life.until(
        session_id,
        lambda facts: name in counted(life.daemon) or is_in_doubt(f"sh {name}.sh", facts),
        look_every_s=0.01,
    )
