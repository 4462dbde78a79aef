"""Sessions over HTTP: created once, listed in pages, fed, queued, stopped."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from kheish.api.app import App
from kheish.api.endpoints.sessions import submit_and_wait
from kheish.api.router import Call, NoQuery
from kheish.core.contracts import ModelRequest, Reply
from kheish.daemon.wiring import build_debugging, build_secrets
from kheish.limits import SUBSCRIBER_QUEUE_BYTES_MAX
from kheish.providers.registry import Routes
from kheish.runtime.hub import Frame
from kheish.wire.runs import SubmitInput
from tests.api.raw_http import Stream, ask, refusal
from tests.daemon_process import DaemonProcess, Json
from tests.runtime.kernel import OPERATOR, Kernel, reply

pytestmark = pytest.mark.slow


def create(api: DaemonProcess, session_id: str, **fields: object) -> Json:
    answer = ask(api, "POST", "/v1/sessions", {"session_id": session_id, "cwd": str(api.work), **fields})
    assert answer.status == 201
    view: Json = answer.json
    return view


def submit(api: DaemonProcess, session_id: str, content: str, **fields: object) -> Json:
    answer = ask(api, "POST", f"/v1/sessions/{session_id}/runs", {"content": content, **fields})
    assert answer.status == 202, answer
    view: Json = answer.json
    return view


def test_creating_twice_gives_the_session_that_there_is(api: DaemonProcess) -> None:
    made = create(api, "twice", title="First", permission_mode="plan")
    assert (made["cwd"], made["title"], made["permission_mode"]) == (os.path.realpath(api.work), "First", "plan")
    assert made["status"] == "idle" and made["seq"] == 1 and made["created_at_ms"] > 0
    assert create(api, "twice", title="Second") == made
    assert ask(api, "POST", "/v1/sessions", {"session_id": "twice"}).json == made, "no directory: any"
    assert ask(api, "POST", "/v1/sessions", {"session_id": "twice", "default_cwd": "/"}).json == made
    assert refusal(ask(api, "POST", "/v1/sessions", {"session_id": "twice", "cwd": "/"})) == (409, "session_conflict")
    assert len(api.journal("twice")) == 1


def test_a_session_gets_a_name_if_it_has_none(api: DaemonProcess) -> None:
    made = ask(api, "POST", "/v1/sessions", {"cwd": str(api.work)}).json
    assert made["session_id"].startswith("session_")
    assert ask(api, "GET", f"/v1/sessions/{made['session_id']}").json == made


def test_a_new_session_needs_a_directory_that_is_there(api: DaemonProcess, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    os.symlink(os.fsencode(tmp_path) + b"/\xff", tmp_path / "to-no-text")
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")
    for cwd in ("relative", str(tmp_path / "none"), str(tmp_path / "file"), "/\0", str(tmp_path / "to-no-text")):
        answer = ask(api, "POST", "/v1/sessions", {"session_id": "homeless", "cwd": cwd})
        assert refusal(answer) == (400, "invalid_cwd"), cwd
        assert answer.json["path"] == "$.cwd"
    assert refusal(ask(api, "POST", "/v1/sessions", {"session_id": "homeless"})) == (400, "cwd_missing")
    assert refusal(ask(api, "GET", "/v1/sessions/homeless")) == (404, "session_not_found")
    default = ask(api, "POST", "/v1/sessions", {"session_id": "housed", "default_cwd": str(tmp_path)}).json
    assert default["cwd"] == os.path.realpath(tmp_path)


def test_a_list_shows_the_newest_change_first_and_filters(api: DaemonProcess, tmp_path: Path) -> None:
    for name in ("list-a", "list-b", "list-c"):
        create(api, name, cwd=str(tmp_path))
    api.finish(submit(api, "list-a", "go")["run_id"])
    where = f"cwd={os.path.realpath(tmp_path)}"
    rows = ask(api, "GET", f"/v1/sessions?{where}").json
    assert [row["session_id"] for row in rows] == ["list-a", "list-c", "list-b"]
    assert rows[0]["headline"] == "go" and rows[0]["runs_total"] == 1
    assert len(ask(api, "GET", f"/v1/sessions?{where}&limit=2").json) == 2
    ask(api, "POST", "/v1/sessions/list-b/end", {})
    submit(api, "list-c", "HANG")
    for status, names in (("ended", ["list-b"]), ("running,ended", ["list-c", "list-b"]), ("waiting_for_approval", [])):
        rows = ask(api, "GET", f"/v1/sessions?{where}&status={status}").json
        assert [row["session_id"] for row in rows] == names, status


def test_a_list_in_pages_shows_each_session_once(api: DaemonProcess, tmp_path: Path) -> None:
    names = {create(api, f"page-{number}", cwd=str(tmp_path))["session_id"] for number in range(7)}
    where = f"/v1/sessions?cwd={os.path.realpath(tmp_path)}"
    seen: list[str] = []
    sizes = []
    page = ask(api, "GET", f"{where}&page=true&limit=3").json
    while True:
        sizes.append(len(page["items"]))
        seen += [row["session_id"] for row in page["items"]]
        if page["next_cursor"] is None:
            break
        page = ask(api, "GET", f"{where}&limit=3&cursor={page['next_cursor']}").json
    assert sizes == [3, 3, 1]
    assert len(seen) == 7 and set(seen) == names
    assert ask(api, "GET", f"{where}&page=true&limit=7").json["next_cursor"] is None, "a full last page is the last"


def test_the_view_of_a_session_agrees_with_its_row_in_the_list(api: DaemonProcess) -> None:
    create(api, "agree")
    submit(api, "agree", "SHELL")
    submit(api, "agree", "later")
    api.until("agree", "approval.requested")
    view = ask(api, "GET", "/v1/sessions/agree").json
    row = next(row for row in ask(api, "GET", "/v1/sessions?limit=1000").json if row["session_id"] == "agree")
    assert view["rules"] == [] and row["rules"] is None
    assert view["context"]["tokens"] > 0 and row["context"] is None
    assert view["labels"] == [] and row["labels"] is None
    assert view["used"]["steps"] == 1 and row["used"] is None
    own = {
        "rules": None,
        "context": None,
        "labels": None,
        "used": None,
        "attached": 0,
    }  # whoever read the event is about to leave
    assert view | own == row | own
    assert view["status"] == "waiting_for_approval" and len(view["pending_approval_ids"]) == 1
    assert view["active_run_id"] and len(view["queued_run_ids"]) == 1


def test_the_journal_is_read_in_pages(api: DaemonProcess) -> None:
    create(api, "events")
    api.finish(submit(api, "events", "go")["run_id"])
    whole = ask(api, "GET", "/v1/sessions/events/events").json
    assert whole["next_cursor"] is None
    assert [record["seq"] for record in whole["items"]] == list(range(1, len(whole["items"]) + 1))
    stored = api.journal("events")
    assert [record["events"] for record in whole["items"]] == [record["events"] for record in stored]
    assert whole["items"][0]["by"] == {
        "principal": f"user:{os.getuid()}",
        "origin": "http",
        "command": "create_session",
    }
    assert all(record["session_id"] == "events" for record in whole["items"])
    for limit in (1, 2, len(stored)):
        items: list[Json] = []
        cursor: str | None = "0"
        while cursor is not None:
            page = ask(api, "GET", f"/v1/sessions/events/events?cursor={cursor}&limit={limit}").json
            assert 0 < len(page["items"]) <= limit, "a cursor leads to something"
            items, cursor = items + page["items"], page["next_cursor"]
        assert items == whole["items"], limit
    beyond = ask(api, "GET", "/v1/sessions/events/events?cursor=9999").json
    assert beyond == {"items": [], "next_cursor": None}


def test_a_transcript_counts_from_the_first_message_or_ends_with_the_last(api: DaemonProcess) -> None:
    create(api, "talk", permission_mode="bypass")
    for content in ("one", "SHELL"):
        api.finish(submit(api, "talk", content)["run_id"])
    whole = ask(api, "GET", "/v1/sessions/talk/transcript").json
    assert [(m["role"], m["text"]) for m in whole["items"]] == [
        ("user", "one"),
        ("assistant", "done"),
        ("user", "SHELL"),
        ("assistant", ""),
        ("tool", "did it\n"),
        ("assistant", "done"),
    ]
    asked = whole["items"][3]["tool_requests"][0]
    assert asked["tool"] == "bash" and asked["input"] == {"command": "echo did it"}
    assert asked["tool_call_id"] == whole["items"][4]["tool_call_id"]
    part = ask(api, "GET", "/v1/sessions/talk/transcript?first=1&limit=2").json
    assert (part["first"], part["total"], part["items"]) == (1, 6, whole["items"][1:3])
    last = ask(api, "GET", "/v1/sessions/talk/transcript?limit=2").json
    assert (last["first"], last["items"]) == (4, whole["items"][4:])
    assert ask(api, "GET", "/v1/sessions/talk/transcript?first=99").json["items"] == []


def test_input_waits_for_the_end_or_for_a_human(api: DaemonProcess) -> None:
    create(api, "wait")
    over = ask(api, "POST", "/v1/sessions/wait/input", {"content": "go"})
    assert over.status == 200 and over.json["status"] == "idle" and over.json["runs_total"] == 1
    waiting = ask(api, "POST", "/v1/sessions/wait/input", {"content": "SHELL"}).json
    assert waiting["status"] == "waiting_for_approval"
    assert refusal(ask(api, "POST", "/v1/sessions/wait/input", {"content": "go"})) == (409, "session_busy")
    ask(api, "POST", "/v1/sessions/wait/end", {})
    create(api, "wait-2")
    assert (
        ask(api, "POST", "/v1/sessions/wait-2/input", {"content": "ASK"}).json["status"] == "waiting_for_user_question"
    )


def test_a_run_is_submitted_with_all_that_it_may_carry(api: DaemonProcess) -> None:
    create(api, "full")
    long = "x" * 20_000
    run = submit(
        api,
        "full",
        "go",
        model="test/script.json",
        attachments=[
            {"file_name": "a.txt", "text": "short"},
            {"file_name": "dir/b.txt", "text": long},
            {"file_name": "c.png", "media_type": "image/png", "content_base64": "iVBORw=="},
        ],
        metadata={"ticket": 7, "nested": {"a": [1, 2.5, None, True]}},
    )
    assert run["status"] in ("queued", "running", "completed") and run["kind"] == "input"
    request = run["request"]
    assert (request["text_preview"], request["provider"], request["model"]) == ("go", "test", "script.json")
    assert (request["principal"], request["origin"]) == (f"user:{os.getuid()}", "http")
    assert run["input_metadata"] == {"ticket": 7, "nested": {"a": [1, 2.5, None, True]}}
    small, large, image = run["input_attachments"]
    assert small == {"name": "a.txt", "media_type": "text/plain", "text": "short", "bytes": 5}
    assert (large["name"], large["bytes"]) == ("b.txt", 20_000) and "text" not in large
    assert ask(api, "GET", f"/v1/blobs/{large['blob']}").body == long.encode()
    assert ask(api, "GET", f"/v1/blobs/{image['blob']}").body == b"\x89PNG"
    assert api.finish(run["run_id"])["status"] == "completed"


def test_the_origin_of_a_client_is_journaled_and_nonsense_is_not(api: DaemonProcess) -> None:
    create(api, "origin")
    for origin, kept in (("editor:vim", "editor:vim"), ("Not An Origin", "http"), ("x" * 65, "http")):
        ask(api, "POST", "/v1/sessions/origin/permission-mode", {"mode": "plan"}, Kheish_Origin=origin)
        assert api.journal("origin")[-1]["by"]["origin"] == kept
        ask(api, "POST", "/v1/sessions/origin/permission-mode", {"mode": "default"})


def test_a_session_can_have_another_title(api: DaemonProcess) -> None:
    create(api, "titled")
    renamed = ask(api, "POST", "/v1/sessions/titled/title", {"title": "The outage"})
    assert renamed.json["title"] == ask(api, "GET", "/v1/sessions/titled").json["title"] == "The outage"
    assert refusal(ask(api, "POST", "/v1/sessions/titled/title", {"title": "x" * 201}))[0] == 400


def test_a_paused_queue_is_in_every_view_and_nobody_waits_behind_it(api: DaemonProcess) -> None:
    create(api, "paused")
    assert ask(api, "POST", "/v1/sessions/paused/queue/pause").json["queue_paused"] is True
    run = submit(api, "paused", "go")
    row = next(row for row in ask(api, "GET", "/v1/sessions?limit=1000").json if row["session_id"] == "paused")
    view = ask(api, "GET", "/v1/sessions/paused").json
    assert row["queue_paused"] is view["queue_paused"] is True
    assert (view["status"], view["queued_run_ids"], view["active_run_id"]) == ("idle", [run["run_id"]], "")
    ask(api, "DELETE", f"/v1/sessions/paused/queue/{run['run_id']}")
    assert refusal(ask(api, "POST", "/v1/sessions/paused/input", {"content": "go"})) == (409, "session_busy")
    later = submit(api, "paused", "go")
    assert ask(api, "POST", "/v1/sessions/paused/queue/resume").json["active_run_id"] == later["run_id"]
    assert api.finish(later["run_id"])["status"] == "completed"


def test_a_record_can_have_a_label_that_every_client_sees(api: DaemonProcess) -> None:
    create(api, "labelled")
    path = "/v1/sessions/labelled/labels"
    for seq, label in ((2, "here"), (1, "the start"), (2, "before the outage")):
        view = ask(api, "POST", path, {"seq": seq, "label": label})
    assert view.json["labels"] == [{"seq": 1, "label": "the start"}, {"seq": 2, "label": "before the outage"}]
    assert ask(api, "GET", "/v1/sessions/labelled").json["labels"] == view.json["labels"]
    assert ask(api, "POST", path, {"seq": 2, "label": ""}).json["labels"] == [{"seq": 1, "label": "the start"}]
    last = api.journal("labelled")[-1]
    assert last["events"] == [{"type": "record.labelled", "labelled_seq": 2, "label": ""}]
    assert last["by"]["principal"] == f"user:{os.getuid()}"


def test_only_a_record_that_a_session_has_can_be_labelled(api: DaemonProcess) -> None:
    create(api, "unlabelled")
    path = "/v1/sessions/unlabelled/labels"
    assert refusal(ask(api, "POST", path, {"seq": 99, "label": "x"})) == (404, "record_not_found")
    assert refusal(ask(api, "POST", path, {"seq": 0, "label": "x"}))[0] == 400
    assert refusal(ask(api, "POST", path, {"seq": 1, "label": "x" * 101}))[0] == 400
    assert ask(api, "GET", "/v1/sessions/unlabelled").json["labels"] == []


@pytest.mark.parametrize("flood", ["of deltas", "of records"])
async def test_who_waits_for_a_run_is_not_cut_off_by_what_the_run_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flood: str
) -> None:
    async def answer(_: ModelRequest) -> Reply:
        if flood == "of deltas":
            frame = Frame(event="delta", session_id="s", data=bytes(SUBSCRIBER_QUEUE_BYTES_MAX + 1))
            kernel.supervisor.hub.publish(frame)
        return reply("done")

    if flood == "of records":
        monkeypatch.setattr("kheish.runtime.hub.SUBSCRIBER_QUEUE_BYTES_MAX", 1)
    async with Kernel(tmp_path, [answer]) as kernel, asyncio.timeout(10):
        await kernel.create()
        secrets = build_secrets(tmp_path, tmp_path)
        debugging = build_debugging(tmp_path, Routes(tmp_path), secrets, kernel.supervisor.runtime)
        app = App(kernel.supervisor, secrets, debugging, state_root=tmp_path, socket_path=tmp_path / "socket")
        call = Call(path={"id": "s"}, query=NoQuery(), body=SubmitInput(content="go"), caller=OPERATOR)
        view = await submit_and_wait(app, call)
        assert (view.status, view.runs_total) == ("idle", 1)
        assert kernel.supervisor.hub.subscribers_total == 0


def test_the_queue_is_listed_edited_and_withdrawn(api: DaemonProcess) -> None:
    create(api, "queue")
    active = submit(api, "queue", "HANG")
    first, second, third = (submit(api, "queue", text)["run_id"] for text in ("first", "second", "AFTER"))
    assert active["queued_position"] == 0
    queue = ask(api, "GET", "/v1/sessions/queue/queue").json
    assert [(r["run_id"], r["queued_position"]) for r in queue] == [(first, 1), (second, 2), (third, 3)]
    move = f"/v1/sessions/queue/queue/{third}/move"
    assert ask(api, "POST", move, {"position": 1}).json["queued_position"] == 1
    assert [r["run_id"] for r in ask(api, "GET", "/v1/sessions/queue/queue").json] == [third, first, second]
    assert ask(api, "POST", move, {"position": 3}).json["queued_position"] == 3
    assert refusal(ask(api, "POST", move, {"position": 0}))[0] == 400
    edited = ask(api, "PATCH", f"/v1/sessions/queue/queue/{second}", {"content": "second, better AFTER"})
    assert edited.status == 200 and edited.json["request"]["text_preview"] == "second, better AFTER"
    withdrawn = ask(api, "DELETE", f"/v1/sessions/queue/queue/{first}")
    assert withdrawn.status == 200 and withdrawn.json["status"] == "cancelled"
    assert ask(api, "DELETE", f"/v1/sessions/queue/queue/{first}").json == withdrawn.json, "once is enough"
    assert [r["run_id"] for r in ask(api, "GET", "/v1/sessions/queue/queue").json] == [second, third]
    path = f"/v1/sessions/queue/queue/{active['run_id']}"
    assert refusal(ask(api, "PATCH", path, {"content": "x"})) == (409, "run_state_conflict")
    assert refusal(ask(api, "DELETE", path)) == (409, "run_state_conflict")
    assert refusal(ask(api, "POST", f"{path}/move", {"position": 1})) == (409, "run_state_conflict")
    assert ask(api, "POST", f"/v1/runs/{active['run_id']}/cancel", {}).json["status"] == "cancelled"
    assert api.finish(third)["status"] == "completed"
    assert [
        m["text"] for m in ask(api, "GET", "/v1/sessions/queue/transcript").json["items"] if m["role"] == "user"
    ] == [
        "HANG",
        "second, better AFTER",
        "AFTER",
    ]
    assert refusal(ask(api, "DELETE", f"/v1/sessions/queue/queue/{third}")) == (409, "run_state_conflict")


def test_an_interrupt_stops_the_active_run_and_the_queue_goes_on(api: DaemonProcess) -> None:
    create(api, "interrupt")
    active, queued = submit(api, "interrupt", "HANG")["run_id"], submit(api, "interrupt", "AFTER")["run_id"]
    view = ask(api, "POST", "/v1/sessions/interrupt/interrupt", {"reason": "enough"}).json
    assert view["interrupted"] is True and view["run_id"] == active
    assert view["session"]["session_id"] == "interrupt"
    stopped = ask(api, "GET", f"/v1/runs/{active}").json
    assert stopped["status"] == "interrupted" and stopped["error"] == {"code": "interrupted", "message": "enough"}
    assert api.finish(queued)["status"] == "completed"
    idle = ask(api, "POST", "/v1/sessions/interrupt/interrupt").json
    assert idle["interrupted"] is False and idle["run_id"] == ""


def test_an_input_that_interrupts_goes_before_the_queue(api: DaemonProcess) -> None:
    create(api, "urgent")
    active, queued = submit(api, "urgent", "HANG")["run_id"], submit(api, "urgent", "later AFTER")["run_id"]
    urgent = submit(api, "urgent", "AFTER", delivery="interrupt")["run_id"]
    assert api.finish(queued)["status"] == "completed"
    assert ask(api, "GET", f"/v1/runs/{active}").json["status"] == "interrupted"
    first, second = (ask(api, "GET", f"/v1/runs/{run_id}").json for run_id in (urgent, queued))
    assert first["finished_at_ms"] <= second["started_at_ms"]


def test_a_steered_input_joins_the_active_run(api: DaemonProcess) -> None:
    create(api, "steer")
    active = submit(api, "steer", "SHELL")["run_id"]
    approval = api.until("steer", "approval.requested")["request_id"]
    assert submit(api, "steer", "and be quick", delivery="steer")["run_id"] == active
    ask(api, "POST", f"/v1/approvals/{approval}", {"resolution": "allow"})
    api.finish(active)
    texts = [(m["role"], m["text"]) for m in ask(api, "GET", "/v1/sessions/steer/transcript").json["items"]]
    assert texts[2:4] == [("tool", "did it\n"), ("user", "and be quick")], "after the tool result, never before it"


def test_an_ended_session_takes_no_input_and_can_still_be_read(api: DaemonProcess) -> None:
    create(api, "end")
    active, queued = submit(api, "end", "HANG")["run_id"], submit(api, "end", "go")["run_id"]
    view = ask(api, "POST", "/v1/sessions/end/end", {"reason": "all done"}).json
    assert view["ended"] and view["status"] == "ended" and not view["queued_run_ids"]
    assert ask(api, "POST", "/v1/sessions/end/end").json == view, "once is enough"
    for run_id in (active, queued):
        assert ask(api, "GET", f"/v1/runs/{run_id}").json["status"] == "interrupted"
    assert refusal(ask(api, "POST", "/v1/sessions/end/runs", {"content": "go"})) == (409, "session_ended")
    assert refusal(ask(api, "POST", "/v1/sessions/end/input", {"content": "go"})) == (409, "session_ended")
    assert ask(api, "GET", "/v1/sessions/end/events").json["items"]
    with Stream(api, "/v1/sessions/end/stream") as stream:
        assert stream.until("sync")


def test_a_mode_is_changed_and_asked_for_by_later_calls(api: DaemonProcess) -> None:
    create(api, "mode")
    view = ask(api, "POST", "/v1/sessions/mode/permission-mode", {"mode": "bypass"}).json
    assert view["permission_mode"] == "bypass" and view["seq"] == 2
    assert ask(api, "POST", "/v1/sessions/mode/permission-mode", {"mode": "bypass"}).json["seq"] == 2
    assert api.finish(submit(api, "mode", "SHELL")["run_id"])["status"] == "completed"


def damage(daemon: DaemonProcess, session_id: str) -> None:
    """Changes a byte of the second record, while no daemon runs."""
    (journal,) = (daemon.state / "sessions" / session_id).glob("journal-*.jsonl")
    lines = journal.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b'"seq":2', b'"seq":8')
    journal.write_bytes(b"\n".join(lines))


def test_a_damaged_session_is_read_up_to_its_fault(own: DaemonProcess) -> None:
    own.finish(own.submit(own.session("hurt"), "go"))
    records = own.records("hurt")
    own.kill()
    damage(own, "hurt")
    own.start()
    page = ask(own, "GET", "/v1/sessions/hurt/events").json
    assert [item["seq"] for item in page["items"]] == [1]
    assert page["items"] == records[:1]
    rest = ask(own, "GET", f"/v1/sessions/hurt/events?cursor={page['next_cursor']}")
    assert refusal(rest) == (503, "session_corrupt")
    assert "line 3" in rest.json["detail"], "the header is line 1"


def test_a_damaged_session_does_not_hide_what_the_others_used(own: DaemonProcess) -> None:
    """Also where nobody has opened it since it was damaged."""
    for name in ("sound", "hurt"):
        own.finish(own.submit(own.session(name), "go"))
    whole = ask(own, "GET", "/v1/usage?by=session").json
    own.kill()
    damage(own, "hurt")
    own.start()
    for _ in range(2):
        left = ask(own, "GET", "/v1/usage?by=session")
        assert left.status == 200 and not left.json["is_whole"] and whole["is_whole"]
        assert left.json["rows"] == [row for row in whole["rows"] if row["name"] == "sound"]
    (warning,) = ask(own, "GET", "/v1/status").json["warnings"]
    assert warning["session_id"] == "hurt", "who asks why not all of it was counted is told"


def test_a_refused_session_leaves_nothing_behind(own: DaemonProcess) -> None:
    """A tool call's process may not choose a mode, and its attempt makes no directory."""
    command = (
        "curl -s --unix-socket $SOCKET -X POST http://k/v1/sessions -H 'content-type: application/json' "
        '-d \'{"session_id":"bad","cwd":"/","permission_mode":"bypass"}\''
    ).replace("$SOCKET", str(own.socket))
    own.script({"tool_calls": [{"tool": "bash", "arguments": {"command": command}}]}, {"text": "done"})
    own.finish(own.submit(own.session("s", "bypass")))
    assert '"operator_required"' in str(own.records("s"))
    assert not (own.state / "sessions" / "bad").exists()


def test_a_page_of_large_items_has_fewer_of_them_and_none_is_lost(api: DaemonProcess) -> None:
    create(api, "large")
    runs = [submit(api, "large", f"{number} AFTER " + "x" * 900_000)["run_id"] for number in range(7)]
    for run_id in runs:
        api.finish(run_id)
    for path in ("/v1/sessions/large/events", f"/v1/runs/{runs[-1]}/events"):
        seqs: list[int] = []
        cursor, pages = "", 0
        while cursor is not None:
            page = ask(api, "GET", f"{path}?limit=1000&cursor={cursor}").json
            seqs += [item["seq"] for item in page["items"]]
            cursor, pages = page["next_cursor"], pages + 1
        assert seqs == sorted(set(seqs))
        assert pages > 1 or "runs" in path
    newest = ask(api, "GET", "/v1/sessions/large/transcript?limit=1000").json
    assert newest["total"] == 14 and newest["first"] > 0 and newest["items"][-1]["text"] == "done"
    oldest = ask(api, "GET", "/v1/sessions/large/transcript?limit=1000&first=0").json
    assert oldest["first"] == 0 and oldest["items"][0]["text"].startswith("0 AFTER")
    assert len(oldest["items"]) < 14 and len(newest["items"]) == 14 - newest["first"]
