"""Asks the person at the terminal for a decision. Keys typed before the question could be read do not count."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
from collections.abc import Awaitable, Iterator
from typing import TYPE_CHECKING, Any

from kheish.amounts import example, read_raise
from kheish.cli.approvals import approve_hint, call_lines, parse_object
from kheish.cli.output import paint, say
from kheish.cli.questions import make_answers, question_lines
from kheish.client import ApiError, AsyncKheish
from kheish.errors import Invalid
from kheish.terminal import clean, expose

if TYPE_CHECKING:
    from kheish.client import AnswerBody, ApprovalView, BudgetView, QuestionItem, Resolution, RunView

    Decision = Awaitable[RunView]
    """What the person decided, ready to be sent."""

DEAD_TIME_S = 0.4
_ALLOW = ("[y] once", "[s] this session", "[a] always", "[n] deny", "[e] edit", "[Enter] later")
_UNCERTAIN = ("[v] let the model check", "[r] run again", "[m] it took effect", "[g] give up", "[Enter] later")
_BUDGET = ("[r] raise it", "[s] stop with a last word", "[Enter] later")
_UNCERTAIN_VERBS: dict[str, Resolution] = {"v": "verify", "r": "retry", "m": "mark_done", "g": "give_up"}


class Prompt:
    """Brings one approval or question before the person. While it `is_open` the person has not decided, and it may be
    cancelled."""

    def __init__(self, client: AsyncKheish, request_id: str, *, title: str = "") -> None:
        self.request_id = request_id
        self.is_open = True
        self._client = client
        self._title = title
        self._hint = f"kheish answer {request_id}"

    async def ask(self) -> None:
        """Settles the request, or leaves it waiting. Raises KheishError where the daemon has it no more."""
        is_question = self.request_id.startswith("question_")
        while True:
            decision = await (self._ask_question() if is_question else self._ask_approval())
            if decision is None:
                say(f"left waiting: {clean(self._hint)}", "dim")
                return
            self.is_open = False
            try:
                await decision
                return
            except ApiError as error:
                if error.status not in (400, 409):
                    raise
                say(clean(error.message), "red")
            self.is_open = True

    async def _ask_approval(self) -> Decision | None:
        approval = await self._client.approvals.get(self.request_id)
        self._hint = approve_hint(approval, self.request_id)
        if approval["budget"] is not None:
            return await self._ask_budget(approval, approval["budget"])
        is_uncertain = approval["kind"] == "uncertain"
        say(f"{'what about' if is_uncertain else 'allow'} this?{self._title}", "yellow")
        for line in call_lines(approval):
            say(line)
        if is_uncertain:
            say("a daemon died during this call; nobody knows whether it took effect", "yellow")
            choice = await _choose(_UNCERTAIN)
            return self._resolve(approval, _UNCERTAIN_VERBS[choice]) if choice else None
        while True:
            match await _choose(_ALLOW):
                case "y":
                    return self._resolve(approval, "allow")
                case "s":
                    if await _confirm_rule(approval, "this session"):
                        return self._resolve(approval, "allow", remember="session")
                case "a":
                    if await _confirm_rule(approval, "every session, until `kheish permissions forget` takes it back"):
                        return self._resolve(approval, "allow", remember="always")
                case "n":
                    reason = await read_line("why (the model is told)", dead_time_s=0)
                    return self._resolve(approval, "deny", justification=reason)
                case "e":
                    edited = await _edit(approval["input"])
                    if edited is not None:
                        return self._resolve(approval, "allow", updated_input=edited)
                case _:
                    return None

    async def _ask_budget(self, approval: ApprovalView, budget: BudgetView) -> Decision | None:
        say(f"raise this budget?{self._title}", "yellow")
        for line in call_lines(approval):
            say(line)
        while True:
            match await _choose(_BUDGET):
                case "r":
                    text = await read_line(f"by how much, such as {example(budget['reached'])}", dead_time_s=0)
                    try:
                        return self._resolve(approval, "raise", raise_by=read_raise(text, budget["reached"]))
                    except Invalid as error:
                        say(clean(error.message), "red")
                case "s":
                    return self._resolve(approval, "stop")
                case _:
                    return None

    def _resolve(self, approval: ApprovalView, resolution: Resolution, **fields: Any) -> Decision:
        return self._client.approvals.resolve(self.request_id, resolution, if_digest=approval["digest"], **fields)

    async def _ask_question(self) -> Decision | None:
        pending = await self._client.questions.get(self.request_id)
        answers: list[AnswerBody] = []
        for question in pending["questions"]:
            say(f"a question{self._title}", "yellow")
            for line in question_lines([question]):
                say(line)
            how = "a number or your own words" if question.get("options") else "your words"
            while True:
                line = await read_line(f"{how}, [Enter] later")
                if not line:
                    return None
                try:
                    answers += make_answers([question], *_split(question, line))
                    break
                except Invalid as error:
                    say(clean(error.message), "red")
        return self._client.questions.answer(self.request_id, answers)


async def read_line(prompt: str, *, dead_time_s: float = DEAD_TIME_S) -> str:
    """A line that the person typed after the prompt came. It comes when what it asks about has been on the screen for
    the dead time, so that keys that were on their way meanwhile decide nothing."""
    fd = sys.stdin.fileno()
    if dead_time_s:
        await asyncio.sleep(dead_time_s)
        termios.tcflush(fd, termios.TCIFLUSH)
    with echo(True):
        # Where keys are echoed all the time, they are on this line already.
        sys.stderr.write(f"\r\x1b[K{paint(f'{prompt}> ', 'bold', sys.stderr)}")
        sys.stderr.flush()
        loop = asyncio.get_running_loop()
        typed: asyncio.Future[bytes] = loop.create_future()

        def read() -> None:
            if not typed.done():
                typed.set_result(os.read(fd, 4096))

        loop.add_reader(fd, read)
        try:
            line = await typed
        finally:
            loop.remove_reader(fd)
    if not line.endswith(b"\n"):
        say()
    return line.decode("utf-8", "replace").strip()


@contextlib.contextmanager
def echo(is_on: bool) -> Iterator[None]:
    """Whether the terminal shows what is typed, until the end of the block: between prompts it means nothing."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    changed = [*before]
    changed[3] = before[3] | termios.ECHO if is_on else before[3] & ~termios.ECHO
    termios.tcsetattr(fd, termios.TCSANOW, changed)
    try:
        yield
    finally:
        # The terminal may be gone.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSANOW, before)


async def _choose(choices: tuple[str, ...]) -> str:
    """The key of one of these choices; "" for the last, which is Enter."""
    keys = [choice[1] for choice in choices[:-1]]
    while True:
        line = (await read_line(_legend(choices))).lower()
        if line in ("", *keys):
            return line
        say(f"cannot tell what {line!r} means: type {', '.join(keys[:-1])} or {keys[-1]}, then Enter", "red")


def _legend(choices: tuple[str, ...]) -> str:
    """The choices in as many lines as the terminal needs."""
    width = shutil.get_terminal_size().columns - 4
    lines = [""]
    for choice in choices:
        if lines[-1] and len(lines[-1]) + 2 + len(choice) > width:
            lines.append("")
        lines[-1] += f"{'  ' if lines[-1] else ''}{choice}"
    return "\n".join(lines)


async def _confirm_rule(approval: ApprovalView, where: str) -> bool:
    say(f"rule: allow {expose(approval['exact_rule'])} in {where}")
    return (await read_line("make it? [y/N]")).lower() in ("y", "yes")


async def _edit(arguments: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments as changed in the person's editor; None where they stay as they are."""
    text = json.dumps(arguments, ensure_ascii=False, indent=2) + "\n"
    while True:
        try:
            text = _open_editor(text)
            changed = parse_object(text)
        except Invalid as error:
            say(clean(error.message), "red")
            if await _choose(("[e] edit again", "[Enter] leave it")):
                continue
            return None
        if changed == arguments:
            say("nothing was changed", "dim")
            return None
        return changed


def _open_editor(text: str) -> str:
    """Blocks, so that nothing is written over the editor. Raises Invalid."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.NamedTemporaryFile("w+", suffix=".json", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        # A Ctrl-C in the editor is the editor's.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with echo(True):
                subprocess.run([*shlex.split(editor), file.name], check=True, preexec_fn=_default_interrupt)
            with open(file.name, encoding="utf-8") as edited:
                return edited.read()
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            raise Invalid(f"cannot edit with {editor}: {error}") from error
        finally:
            signal.signal(signal.SIGINT, before)


def _default_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _split(question: QuestionItem, line: str) -> tuple[str, list[str]]:
    """(free text, options): numbers choose, anything else is the answer itself."""
    parts = line.replace(",", " ").split()
    if question.get("options") and all(part.isdigit() for part in parts):
        return "", parts
    return line, []
