"""`kheish ps` and `kheish sessions ...`."""

from __future__ import annotations

import sys
from itertools import islice

from kheish.cli.output import paint, paint_status, print_json, print_json_line, print_table, say, short_ids, status_text
from kheish.cli.targets import connect, each_session, find_session
from kheish.errors import Conflict, Invalid, KheishError, NotFound
from kheish.limits import INPUT_CHARS_MAX
from kheish.terminal import ago, clean, counted, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from kheish.client import Mode, SessionView
    from kheish.client.views import ContextView

BUSY = "running,waiting_for_approval,waiting_for_user_question"
STATUSES = ("idle", *BUSY.split(","), "ended")


def show_active(all: bool, limit: int, as_json: bool) -> int:
    rows = list(islice(each_session(connect(), None if all else BUSY, limit), limit))
    if as_json:
        print_json(rows)
        return 0
    _print_rows(rows, "nothing is at work; `kheish ps -a` lists all sessions")
    return 0


def list_(status: str | None, limit: int, as_json: bool) -> int:
    unknown = {item for item in (status or "").split(",") if item} - {*STATUSES}
    if unknown:
        raise Invalid(f"cannot list {', '.join(sorted(unknown))} sessions: the statuses are {', '.join(STATUSES)}")
    rows = list(islice(each_session(connect(), status, limit), limit))
    if as_json:
        print_json(rows)
        return 0
    _print_rows(rows, "there are none" if status else "there are no sessions yet; `kheish run TEXT` makes one")
    return 0


def _print_rows(rows: list[SessionView], nothing: str) -> None:
    if not rows:
        say(nothing)
        return
    short = short_ids(r["active_run_id"] for r in rows)
    print_table(
        ("session", "status", "queued", "age", "run", "what"),
        [
            (
                r["session_id"],
                "read_only" if r["problem"] else status_text(r["status"]),
                len(r["queued_run_ids"]) or "",
                ago(r["updated_at_ms"]),
                short(r["active_run_id"]),
                r["problem"] or r["title"] or r["headline"],
            )
            for r in rows
        ],
        {1: paint_status},
    )


def create(session_id: str | None, cwd: str | None, mode: str | None, title: str | None, as_json: bool) -> int:
    import os

    chosen: Mode | None = mode  # type: ignore[assignment]  # one of its parameter's choices
    view = connect().sessions.create(
        session_id, cwd=os.path.abspath(cwd) if cwd else None, permission_mode=chosen, title=title
    )
    _show(view, as_json, view["session_id"])
    return 0


def fork(session_id: str, at: int | None, name: str | None, title: str | None, as_json: bool) -> int:
    client = connect()
    view = client.sessions.fork(find_session(client, session_id), at=at, new_session_id=name, title=title)
    _show(view, as_json, view["session_id"])
    return 0


def _show(view: Any, as_json: bool, text: str) -> None:
    if as_json:
        print_json(view)
    else:
        print(clean(text))


def get(session_id: str | None, as_json: bool) -> int:
    from kheish.amounts import used_of

    client = connect()
    view = client.sessions.get(find_session(client, session_id))
    if as_json:
        print_json(view)
        return 0
    print(f"{paint(view['session_id'], 'bold')}  {paint_status(view['status'])}")
    rows = [
        ("title", view["title"]),
        ("directory", view["cwd"]),
        ("mode", view["permission_mode"]),
        ("model", view["model"]),
        ("updated", f"{ago(view['updated_at_ms'])} ago"),
        ("records", view["seq"]),
        ("runs", view["runs_total"]),
        ("active", view["active_run_id"]),
        ("queued", " ".join(view["queued_run_ids"])),
        ("queue", "paused" if view["queue_paused"] else ""),
        ("budget", used_of(view["budget"]) if view["budget"] else ""),
        ("parent", view["parent_run_id"]),
        ("approvals", " ".join(view["pending_approval_ids"])),
        ("questions", " ".join(view["pending_question_ids"])),
        ("context", _context_text(view["context"])),
    ]
    for name, value in rows:
        if value != "":
            print(f"  {name:<10} {one_line(value)}")
    return 0


def _context_text(context: ContextView | None) -> str:
    """`about 52,000 of 200,000 tokens (26%), 40 messages left out in 1 compaction`."""
    if context is None or not context["tokens"]:
        return ""
    tokens, window_tokens, times = context["tokens"], context["window_tokens"], context["compactions"]
    parts = [f"{'about ' * context['is_estimate']}{tokens:,} tokens"]
    if window_tokens:
        parts = [f"{parts[0].removesuffix(' tokens')} of {window_tokens:,} tokens ({tokens / window_tokens:.0%})"]
    if times:
        parts.append(f"{counted(context['left_out'], 'message')} left out in {counted(times, 'compaction')}")
    if context["compaction_requested"]:
        parts.append("compacted before the next model call")
    return ", ".join(parts)


def compact(session_id: str, as_json: bool) -> int:
    client = connect()
    view = client.sessions.compact(find_session(client, session_id))
    _show(view, as_json, f"{view['session_id']}: the next model call is preceded by a compaction")
    return 0


def read_text(words: list[str]) -> str:
    """The words of a command line; a `-` at their end stands for standard input. Raises Invalid."""
    reads_input = words[-1:] == ["-"]
    text = " ".join(words[:-1] if reads_input else words)
    if not text.isprintable() and any("\ud800" <= c <= "\udfff" for c in text):
        raise Invalid("cannot submit the text: it is not UTF-8")
    if reads_input:
        try:
            data = sys.stdin.buffer.read(4 * INPUT_CHARS_MAX + 1) if sys.stdin else b""
            read = data.decode("utf-8") if len(data) <= 4 * INPUT_CHARS_MAX else "x" * (INPUT_CHARS_MAX + 1)
        except UnicodeDecodeError as error:
            raise Invalid(f"cannot submit standard input: it is not UTF-8 (at byte {error.start})") from error
        if not read.strip():
            raise Invalid("cannot submit nothing: standard input is empty")
        text = f"{text}\n\n{read}" if text else read
    if len(text) > INPUT_CHARS_MAX:
        raise Invalid(
            f"cannot submit the text: it is over {INPUT_CHARS_MAX} characters; put it into a file and name that, or "
            "hand it in with --attach"
        )
    if not text.strip():
        raise Invalid("cannot submit nothing: give a text, or `-` to read standard input")
    return text


def input_(session_id: str, text: list[str], model: str | None, pin: bool, wait: bool, as_json: bool) -> int:
    client = connect()
    run = client.sessions.submit(find_session(client, session_id), read_text(text), model=model, pinned=pin or None)
    if wait:
        from kheish.cli.wait import wait as wait_for

        return wait_for(run["run_id"], "blocked", None, as_json)
    _show(run, as_json, run["run_id"])
    return 0


def events(session_id: str | None, cursor: str, limit: int | None, as_json: bool) -> int:
    client = connect()
    name = find_session(client, session_id)
    left = limit or sys.maxsize
    while left > 0:
        page = client.sessions.events(name, cursor=cursor or None, limit=min(left, 1000))
        for item in page["items"]:
            print_json_line(item)
        left -= len(page["items"])
        if not page["next_cursor"]:
            break
        cursor = page["next_cursor"]
    return 0


def stream(session_id: str | None, cursor: str, as_json: bool) -> int:
    client = connect()
    for event in client.events(session_id=find_session(client, session_id), cursor=cursor):
        print_json_line({"event": event.event, "id": event.id, "data": event.data})
    return 0


def transcript(session_id: str | None, limit: int, as_json: bool) -> int:
    client = connect()
    view = client.sessions.transcript(find_session(client, session_id), limit=limit)
    if as_json:
        print_json(view)
        return 0
    from kheish.narration import call_text

    for message in view["items"]:
        if message["text"]:
            name = message["tool"] or message["role"]
            print(paint(f"{clean(name)}:", "bold"))
            print(clean(message["text"]).rstrip())
        for request in message["tool_requests"]:
            print(paint(f"-> {clean(call_text(request['tool'], request['input']))}", "cyan"))
    return 0


def queue(session_id: str | None, as_json: bool) -> int:
    client = connect()
    rows = client.sessions.queue(find_session(client, session_id))
    if as_json:
        print_json(rows)
    elif not rows:
        say("nothing is queued")
    else:
        print_table(
            ("#", "run", "age", "text"),
            [
                (r["queued_position"], r["run_id"], ago(r["submitted_at_ms"]), r["request"]["text_preview"])
                for r in rows
            ],
        )
    return 0


def edit(session_id: str, run_id: str, text: list[str], as_json: bool) -> int:
    client = connect()
    run_id = client.runs.get(run_id)["run_id"]
    view = client.sessions.edit_queued(find_session(client, session_id), run_id, read_text(text))
    _show(view, as_json, view["run_id"])
    return 0


def move(session_id: str, run_id: str, position: int, as_json: bool) -> int:
    client = connect()
    run_id = client.runs.get(run_id)["run_id"]
    view = client.sessions.move_queued(find_session(client, session_id), run_id, position)
    _show(view, as_json, view["run_id"])
    return 0


def pause(session_id: str, as_json: bool) -> int:
    client = connect()
    view = client.sessions.pause_queue(find_session(client, session_id))
    _show(view, as_json, f"{view['session_id']}: its queue is paused")
    return 0


def resume(session_id: str, as_json: bool) -> int:
    client = connect()
    view = client.sessions.resume_queue(find_session(client, session_id))
    _show(view, as_json, f"{view['session_id']}: its queue goes on")
    return 0


def rename(session_id: str, title: list[str], as_json: bool) -> int:
    client = connect()
    view = client.sessions.set_title(find_session(client, session_id), " ".join(title))
    _show(view, as_json, view["session_id"])
    return 0


def label(session_id: str, seq: int, text: list[str], remove: bool, as_json: bool) -> int:
    if bool(text) == remove:
        raise Invalid("cannot tell what to do: give the label, or --remove to take away the one that the record has")
    client = connect()
    view = client.sessions.label(find_session(client, session_id), seq, " ".join(text))
    _show(view, as_json, f"{view['session_id']} at {seq}: {' '.join(text) or 'no label'}")
    return 0


def labels(session_id: str | None, as_json: bool) -> int:
    client = connect()
    rows = client.sessions.get(find_session(client, session_id))["labels"] or []
    if as_json:
        print_json(rows)
    elif not rows:
        say("no record has a label; `kheish sessions label` gives one")
    else:
        print_table(("seq", "label"), [(row["seq"], row["label"]) for row in rows])
    return 0


def withdraw(session_id: str, run_id: str, as_json: bool) -> int:
    client = connect()
    run_id = client.runs.get(run_id)["run_id"]
    view = client.sessions.withdraw_queued(find_session(client, session_id), run_id)
    _show(view, as_json, view["run_id"])
    return 0


def end(session_id: str, reason: str, as_json: bool) -> int:
    client = connect()
    view = client.sessions.end(find_session(client, session_id), reason=reason)
    _show(view, as_json, f"{view['session_id']} ended")
    return 0


def set_model(session_id: str, model: str | None, reset: bool, as_json: bool) -> int:
    if (model is None) != reset:
        raise Invalid("cannot tell what to set: give MODEL, or --reset for the daemon's")
    client = connect()
    view = client.sessions.set_model(find_session(client, session_id), model or "")
    if as_json:
        print_json(view)
    else:
        print(f"{clean(view['session_id'])}: {clean(view['model']) or 'the model of the daemon'}")
    return 0


def set_mode(session_id: str, mode: str, as_json: bool) -> int:
    client = connect()
    chosen: Mode = mode  # type: ignore[assignment]  # one of its parameter's choices
    view = client.sessions.set_permission_mode(find_session(client, session_id), chosen)
    _show(view, as_json, f"{view['session_id']}: {view['permission_mode']}")
    return 0


def verify(session_id: str | None, all: bool, as_json: bool) -> int:
    from kheish import paths
    from kheish.daemon import maintenance

    if bool(session_id) == all:
        raise Invalid("cannot tell what to verify: name a session, or say --all")
    root = paths.state_root()
    checked = maintenance.verify(root, [_on_disk(root, session_id)] if session_id else None)
    if as_json:
        print_json(
            [
                {
                    "session_id": item.session_id,
                    "ok": not item.faults,
                    "faults": [
                        {"file": f.file, "line": f.line, "offset": f.offset, "reason": f.reason} for f in item.faults
                    ],
                }
                for item in checked
            ]
        )
    else:
        for item in checked:
            if not item.faults:
                print(f"{paint('ok', 'green')}     {clean(item.session_id)}")
            for f in item.faults:
                place = f", line {f.line}, offset {f.offset}" if f.line or f.offset else ""
                print(f"{paint('FAULT', 'red')}  {clean(item.session_id)}: {clean(f'{f.file}{place}: {f.reason}')}")
        if not checked:
            say("there are no sessions")
    return 1 if any(item.faults for item in checked) else 0


def vacuum(session_id: list[str], all: bool, as_json: bool) -> int:
    from kheish import paths
    from kheish.daemon import maintenance

    if bool(session_id) == all:
        raise Invalid("cannot tell what to vacuum: name sessions, or say --all")
    root = paths.state_root()
    names = None if all else list(dict.fromkeys(_on_disk(root, given) for given in session_id))
    done = []
    for item in maintenance.vacuum(root, names):
        done.append(item)
        if as_json:
            continue
        if item.bytes_after != item.bytes_before or not item.code:
            print(f"{clean(item.session_id)}: {_kib(item.bytes_before)} -> {_kib(item.bytes_after)}")
        if item.code:
            say(item.problem, "yellow" if item.code == _IS_OPEN else "red")
    if as_json:
        print_json(
            [
                {
                    "session_id": item.session_id,
                    "bytes_before": item.bytes_before,
                    "bytes_after": item.bytes_after,
                    "code": item.code,
                    "problem": item.problem,
                }
                for item in done
            ]
        )
    elif not done:
        say("there are no sessions")
    elif len(done) > 1:
        print(f"all: {_kib(sum(i.bytes_before for i in done))} -> {_kib(sum(i.bytes_after for i in done))}")
    return 1 if any(item.code not in ("", _IS_OPEN) for item in done) else 0


_IS_OPEN = "session_locked"
"""Left alone, since somebody has it open: the next vacuum takes it."""


def _kib(size_bytes: int) -> str:
    return f"{-(-size_bytes // 1024):,} KiB"


def _on_disk(root: Path, given: str) -> str:
    """A session of the state root, by name or unambiguous beginning, whether or not a daemon runs."""
    from kheish.store.session_dir import list_sessions

    names = [info.session_id for info in list_sessions(root)]
    found = [n for n in names if n == given] or [n for n in names if n.startswith(given)]
    if not found:
        raise NotFound(f"cannot find session {given} in {root}")
    if len(found) > 1:
        raise Conflict(f"cannot tell which session {given} is: {', '.join(sorted(found)[:5])}")
    return found[0]


def export(session_id: str, output: str | None, as_json: bool) -> int:
    import contextlib
    import os

    from kheish import paths
    from kheish.daemon import maintenance

    root = paths.state_root()
    name = _on_disk(root, session_id)
    if output == "-":
        maintenance.export(root, name, sys.stdout.buffer)
        return 0
    path = output or f"{name}.kheish"
    unfinished = f"{path}.part"
    try:
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            maintenance.export(root, name, out)
            out.flush()
            os.fsync(out.fileno())
        os.replace(unfinished, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        if isinstance(error, OSError):
            at = f" ({error.filename})" if error.filename else ""
            raise KheishError(f"cannot export to {path}: {error.strerror}{at}", code="export_failed") from error
        raise
    _show({"session_id": name, "file": path}, as_json, path)
    return 0


def import_(file: str, as_json: bool) -> int:
    import contextlib

    from kheish import paths
    from kheish.daemon import maintenance

    try:
        source = sys.stdin.buffer if file == "-" else open(file, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise Invalid(f"cannot read {file}: {error.strerror}") from error
    with source:
        session_id = maintenance.import_(paths.state_root(), source)
    with contextlib.suppress(KheishError):
        # A running daemon takes it up when it is asked for by name.
        connect(start=False).sessions.get(session_id)
    _show({"session_id": session_id}, as_json, session_id)
    return 0
