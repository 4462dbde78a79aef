"""Asks the person at the terminal for a decision. Keys typed before the question could be read do not count."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import termios
from typing import Any

from kheish.cli.approvals import parse_object, print_approval
from kheish.cli.output import clean, paint, say
from kheish.cli.questions import make_answers, print_question
from kheish.client import AsyncKheish
from kheish.errors import Invalid, KheishError

DEAD_TIME_S = 0.4
_ALLOW = "[y] allow once  [s] for this session  [a] always  [n] deny  [e] edit  [Enter] decide later"
_UNCERTAIN = "[v] let the model check  [r] run it again  [m] it took effect  [g] give up  [Enter] decide later"
_UNCERTAIN_VERBS = {"v": "verify", "r": "retry", "m": "mark_done", "g": "give_up"}


async def read_line(prompt: str) -> str:
    """A line that was typed after the prompt could be read."""
    sys.stderr.write(paint(prompt, "bold", sys.stderr))
    sys.stderr.flush()
    await asyncio.sleep(DEAD_TIME_S)
    fd = sys.stdin.fileno()
    termios.tcflush(fd, termios.TCIFLUSH)
    loop = asyncio.get_running_loop()
    typed: asyncio.Future[str] = loop.create_future()

    def read() -> None:
        if not typed.done():
            typed.set_result(os.read(fd, 4096).decode("utf-8", "replace"))

    loop.add_reader(fd, read)
    try:
        return (await typed).strip()
    finally:
        loop.remove_reader(fd)


async def ask_approval(client: AsyncKheish, request_id: str) -> None:
    """Resolves an approval, or leaves it waiting. Raises KheishError where the daemon refuses."""
    approval = await client.approvals.get(request_id)
    print_approval(approval)
    if approval["kind"] == "uncertain":
        say("a daemon died during this call; nobody knows whether it took effect", "yellow")
        verb = _UNCERTAIN_VERBS.get(await _choose(_UNCERTAIN, "vrmg"))
        if verb:
            await client.approvals.resolve(request_id, verb, if_digest=approval["digest"])
        return
    choice = await _choose(_ALLOW, "ysane")
    fields: dict[str, Any] = {"if_digest": approval["digest"]}
    match choice:
        case "":
            say(f"left waiting: kheish approve {request_id}", "dim")
            return
        case "n":
            reason = await read_line("why (the model is told)> ")
            await client.approvals.resolve(request_id, "deny", justification=reason, **fields)
            return
        case "s" | "a":
            fields["remember"] = "session" if choice == "s" else "always"
            where = "this session" if choice == "s" else "every session"
            say(f"rule: allow {clean(approval['exact_rule'])} in {where}")
            if (await read_line("make it? [y/N]> ")).lower() != "y":
                return await ask_approval(client, request_id)
        case "e":
            edited = await asyncio.to_thread(_edit, approval["input"])
            if edited is None:
                return await ask_approval(client, request_id)
            fields["updated_input"] = edited
    await client.approvals.resolve(request_id, "allow", **fields)


async def _choose(prompt: str, keys: str) -> str:
    while True:
        line = (await read_line(f"{prompt}> ")).lower()
        if line == "" or (len(line) == 1 and line in keys):
            return line


def _edit(arguments: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments as changed in the person's editor; None where nothing was changed. Blocks."""
    import subprocess

    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.NamedTemporaryFile("w+", suffix=".json", encoding="utf-8") as file:
        json.dump(arguments, file, ensure_ascii=False, indent=2)
        file.write("\n")
        file.flush()
        try:
            subprocess.run([*editor.split(), file.name], check=True)
            with open(file.name, encoding="utf-8") as edited:
                changed = parse_object(edited.read())
        except (OSError, subprocess.CalledProcessError) as error:
            say(f"cannot edit with {editor}: {error}", "red")
            return None
        except Invalid as error:
            say(clean(error.message), "red")
            return None
    return changed if changed != arguments else None


async def ask_question(client: AsyncKheish, request_id: str) -> None:
    """Answers a question, or leaves it waiting. Raises KheishError where the daemon refuses."""
    pending = await client.questions.get(request_id)
    print_question(pending)
    answers: list[dict[str, Any]] = []
    for question in pending["questions"]:
        while True:
            hint = "number, or your own words" if question.get("options") else "your words"
            line = await read_line(f"{hint} (Enter: later)> ")
            if not line:
                say(f"left waiting: kheish answer {request_id}", "dim")
                return
            try:
                answers += make_answers([question], *_split(question, line))
                break
            except KheishError as error:
                say(clean(error.message), "red")
    await client.questions.answer(request_id, answers)


def _split(question: dict[str, Any], line: str) -> tuple[str, list[str]]:
    """(free text, options): numbers choose, anything else is the answer itself."""
    parts = [part.strip() for part in line.replace(",", " ").split()]
    if question.get("options") and all(part.isdigit() for part in parts):
        return "", parts
    return line, []
