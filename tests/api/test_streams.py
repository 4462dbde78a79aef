"""Streams from a real daemon: the journal from any place, one `sync`, then what happens, whatever the text is."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from kheish.client import Kheish
from kheish.limits import MIB, STREAM_CHUNK_BYTES, SUBSCRIBER_QUEUE_BYTES_MAX
from kheish.runtime.hub import Frame as HubFrame
from kheish.runtime.hub import Hub
from tests.api.conftest import obey
from tests.api.raw_http import Frame, Stream, ask, connect, read_all, refusal
from tests.daemon_process import DaemonProcess, Json, text

pytestmark = pytest.mark.slow


def records(frames: list[Frame]) -> list[Frame]:
    return [frame for frame in frames if frame.event == "record"]


def seqs(frames: list[Frame]) -> list[int]:
    return [frame.data["seq"] for frame in records(frames)]


@pytest.mark.parametrize(
    ("place", "by"),
    [("", "query")] + [(place, by) for place in ("0", "3", "last", "tail", "999999") for by in ("query", "header")],
)
def test_a_session_is_replayed_from_any_cursor_and_then_goes_on(api: DaemonProcess, place: str, by: str) -> None:
    session = api.session(f"replay-{by}-{place}")
    api.finish(api.submit(session, "go"))
    last = len(api.records(session))
    cursor = str(last) if place == "last" else place
    after = {"": 0, "0": 0, "3": 3}.get(place, last)
    path = f"/v1/sessions/{session}/stream"
    stream = Stream(api, f"{path}?cursor={cursor}") if by == "query" else Stream(api, path, cursor)
    with stream:
        replayed = stream.until("sync")
        assert seqs(replayed) == list(range(after + 1, last + 1))
        assert [f.event for f in replayed] == ["record"] * (last - after) + ["sync"]
        assert replayed[-1].id == str(last) and replayed[-1].data == {"cursor": str(last)}
        api.submit(session, "go on")
        live = stream.read_types("run.completed")
    assert seqs(live) == list(range(last + 1, last + 1 + len(seqs(live))))
    assert all(f.id == str(f.data["seq"]) for f in records(replayed + live))
    assert not [f for f in live if f.event == "sync"], "one sync marks the end of the replay"
    assert [f.data for f in records(replayed + live)] == api.records(session)[
        after : after + len(seqs(replayed + live))
    ]


def test_live_text_comes_between_records_without_an_id(api: DaemonProcess) -> None:
    said = ["Once ", "upon\n", "a\u2028time"]
    model = "test/" + api.script({"deltas": said, "pace_ms": 20}, name="slow.json").rpartition("/")[2]
    session = api.session("deltas")
    with Stream(api, f"/v1/sessions/{session}/stream") as stream, Stream(api, "/v1/events/stream") as everything:
        stream.until("sync")
        everything.until("sync")
        run_id = api.submit(session, "tell", model=model)
        live = stream.read_types("run.completed")
        overall = everything.read_types("run.completed")
    deltas = [f for f in live if f.event == "delta"]
    assert "".join(f.data["text"] for f in deltas) == "".join(said)
    assert all(f.id is None and f.data["kind"] == "text" and f.data["run_id"] == run_id for f in deltas)
    assert "".join(f.data["text"] for f in overall if f.event == "delta") == "".join(said)
    started = next(i for i, f in enumerate(live) if "model_call.started" in str(f.data))
    completed = next(i for i, f in enumerate(live) if "model_call.completed" in str(f.data))
    assert all(started < live.index(f) < completed for f in deltas)
    with Stream(api, f"/v1/sessions/{session}/stream") as stream:
        assert not [f for f in stream.until("sync") if f.event == "delta"], "they are not in the journal"


def test_the_global_stream_leaves_live_text_out_on_request(api: DaemonProcess) -> None:
    model = "test/" + api.script({"deltas": ["a", "b"], "pace_ms": 20}, name="pair.json").rpartition("/")[2]
    session = api.session("quiet")
    with Stream(api, "/v1/events/stream?deltas=false") as quiet, Stream(api, "/v1/events/stream") as everything:
        quiet.until("sync")
        everything.until("sync")
        api.submit(session, "tell", model=model)
        overall, alone = everything.read_types("run.completed"), quiet.read_types("run.completed")
    assert [f.event for f in overall if f.event == "delta"]
    assert [f.data for f in alone] == [f.data for f in records(overall)]


def test_who_follows_a_session_is_seen(api: DaemonProcess) -> None:
    session = api.session("watched")
    run_id = api.submit(session, "HANG")
    path = f"/v1/sessions/{session}"
    assert ask(api, "GET", path).json["attached"] == 0
    with Stream(api, f"{path}/stream") as one, Stream(api, f"/v1/runs/{run_id}/stream") as other:
        one.until("sync")
        other.until("sync")
        assert ask(api, "GET", path).json["attached"] == 2
        (row,) = [r for r in ask(api, "GET", "/v1/sessions").json if r["session_id"] == session]
        assert row["attached"] == 2
    ask(api, "POST", f"/v1/runs/{run_id}/cancel", {})


def test_the_stream_of_a_run_holds_its_records_and_ends_with_it(api: DaemonProcess) -> None:
    session = api.session("of-run")
    before = api.submit(session, "go")
    api.finish(before)
    run_id = api.submit(session, "HANG", metadata={"run_id": before})
    queued = api.submit(session, "AFTER")
    with Stream(api, f"/v1/runs/{run_id}/stream") as stream:
        replayed = stream.until("sync")
        ask(api, "POST", f"/v1/runs/{run_id}/cancel", {})
        live = list(stream)
    assert [f.event for f in live] == ["record", "bye"] and live[-1].id is None
    assert live[-1].data == {"reason": "the run is over"}
    mine = [r for r in api.records(session) if any(e.get("run_id") == run_id for e in r["events"])]
    assert [f.data for f in records(replayed + live)] == mine
    api.finish(queued)
    with Stream(api, f"/v1/runs/{run_id}/stream") as stream:
        again = list(stream)
    assert [f.data for f in records(again)] == mine
    assert [f.event for f in again[-2:]] == ["sync", "bye"] and "cancelled" in again[-1].data["reason"]
    with Stream(api, f"/v1/runs/{before}/stream") as stream:
        others = seqs(list(stream))
    assert mine[0]["seq"] not in others, "metadata that names a run makes no record its own"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_client_of_http_1_0_gets_the_same_stream_without_chunks(api: DaemonProcess, method: str) -> None:
    run = api.submit(api.session(f"old-{method}"), "go")
    api.finish(run)
    with Stream(api, f"/v1/runs/{run}/stream") as stream:
        expected = stream.response.read()
    with connect(api) as connection:
        connection.sendall(f"{method} /v1/runs/{run}/stream HTTP/1.0\r\n\r\n".encode())
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head and b"content-type: text/event-stream" in head
    assert body == (expected if method == "GET" else b"")


def test_a_client_of_http_1_0_is_told_the_length_of_what_is_no_stream(api: DaemonProcess) -> None:
    with connect(api) as connection:
        connection.sendall(b"GET /v1/sessions HTTP/1.0\r\n\r\n")
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}\r\n".encode() in head and json.loads(body)


def test_the_global_stream_is_replayed_from_any_cursor_and_then_goes_on(api: DaemonProcess) -> None:
    one, two = api.session("global-1"), api.session("global-2")
    for session in (one, two, one):
        api.finish(api.submit(session, "go"))
    with Stream(api, "/v1/events/stream?cursor=0.0") as stream:
        whole = stream.until("sync")
        marker = api.submit(two, "go on")
        live = stream.read_types("run.completed")
    places = [(f.data["generation"], f.data["position"]) for f in records(whole + live)]
    assert places == sorted(set(places)) and places[0] == (1, 1)
    assert [f.id for f in records(whole + live)] == [f"{gen}.{pos}" for gen, pos in places]
    for session in (one, two):
        mine = [f.data for f in records(whole + live) if f.data["session_id"] == session]
        assert mine == api.records(session)[: len(mine)]
    assert any(e.get("run_id") == marker for f in records(live) for e in f.data["events"])
    middle = len(whole) // 2
    with Stream(api, "/v1/events/stream", whole[middle].id) as stream:
        part = stream.until("sync")
    assert [f.id for f in records(part)][: len(whole) - middle - 2] == [f.id for f in whole[middle + 1 : -1]]
    end = ask(api, "GET", "/v1/status").json["cursor"]
    for cursor in ("", "tail", "the end", "999.1", "1.999999999"):
        with Stream(api, f"/v1/events/stream?cursor={end if cursor == 'the end' else cursor}") as stream:
            assert stream.until("sync") == [Frame("sync", end, {"cursor": end})]
            run_id = api.submit(one, "more")
            first = stream.read_types("run.submitted")[-1]
            assert first.data["events"][0]["run_id"] == run_id, cursor
            api.finish(run_id)
            end = ask(api, "GET", "/v1/status").json["cursor"]


NASTY = [
    "one\ntwo\r\nthree\rfour\n\n",
    "data: x\n\nevent: bye\ndata: {}\n\n",
    "lines\u2028of\u2029many\x85kinds\x0b\x0c\x1c",
    "nul \0 and \x7f and \ufeff and \ufffe",
    "\U0001f600 e\u0301 \u202e",
    'quote " backslash \\ slash / \\n',
    "x" * (1 * MIB),
    "\u20ac" * (MIB // 2),
]


@pytest.mark.parametrize("content", NASTY, ids=range(len(NASTY)))
def test_a_frame_holds_any_text(api: DaemonProcess, content: str) -> None:
    session = api.session(f"nasty-{NASTY.index(content)}")
    with Stream(api, f"/v1/sessions/{session}/stream") as stream:
        stream.until("sync")
        api.submit(session, content, metadata={content[:1000]: content[:1000]})
        live = stream.read_types("run.submitted")[-1]
    with Stream(api, f"/v1/sessions/{session}/stream?cursor=1") as stream:
        replayed = next(iter(stream))
    assert live == replayed
    event = live.data["events"][0]
    assert event["text"] == content and event["metadata"] == {content[:1000]: content[:1000]}
    with_client = next(e for e in api.client.events(session_id=session, cursor="1"))
    assert with_client.data == live.data
    (journal,) = (api.state / "sessions" / session).glob("journal-*.jsonl")
    assert live.data["events"] == json.loads(journal.read_bytes().split(b"\n")[2])["events"]


def test_text_that_is_not_unicode_is_refused_before_it_is_kept(api: DaemonProcess) -> None:
    session = api.session("surrogates")
    for body in (b'{"content":"\\ud800 x"}', b'{"content":"\xed\xa0\x80"}', b'{"content":"\\udfff\\ud800"}'):
        assert refusal(ask(api, "POST", f"/v1/sessions/{session}/runs", body)) == (400, "malformed_json")
    assert api.types(session) == ["session.created"]


async def test_what_waits_for_a_reader_is_bounded_given_out_in_pieces_and_dropped_with_it() -> None:
    hub = Hub()
    subscription = hub.subscribe()
    frames = [
        HubFrame(event="record", session_id="s", data=b"x" * STREAM_CHUNK_BYTES, seq=seq) for seq in range(1, 100)
    ]
    kept = SUBSCRIBER_QUEUE_BYTES_MAX // STREAM_CHUNK_BYTES
    for frame in frames[:kept]:
        hub.publish(frame)
    assert subscription.take() == frames[:1], "one write's worth"
    hub.publish(frames[kept])
    assert subscription.take() == frames[1:2] and not subscription.lost
    for frame in frames[kept + 1 : kept + 3]:
        hub.publish(frame)
    assert subscription.lost and not hub.subscribers_total
    assert subscription.take() == [], "it reads on from the journal"


def test_a_slow_reader_is_cut_off_and_reads_on_from_its_last_id(api: DaemonProcess) -> None:
    """It reads nothing while more is written than the daemon keeps for it."""
    session = api.session("slow")
    api.submit(session, "HANG")
    big = "x" * (MIB // 2)
    with Stream(api, f"/v1/sessions/{session}/stream") as stream, Stream(api, "/v1/events/stream") as everything:
        stream.until("sync")
        begin = everything.until("sync")[-1].id
        follower = Kheish(api.socket, start=False).events(session_id=session)
        first = next(follower)
        assert first.data["seq"] == 1
        for _ in range(SUBSCRIBER_QUEUE_BYTES_MAX // len(big) + 8):
            api.submit(session, big)
        total = len(api.records(session))
        frames, overall = list(stream), list(everything)
    for cut in (frames, overall):
        assert cut[-1].event == "gap" and cut[-1].id is None and "slow" in cut[-1].data["reason"]
        assert len(records(cut)) < total, "it was cut off"
    got = [1, 2, *seqs(frames)]
    assert got == list(range(1, len(got) + 1))
    with Stream(api, f"/v1/sessions/{session}/stream", frames[-2].id) as stream:
        assert seqs(stream.until("sync")) == list(range(len(got) + 1, total + 1))
    last = overall[-2].id
    assert begin is not None and last is not None
    with Stream(api, "/v1/events/stream", last) as stream:
        rest = records(stream.until("sync"))
    mine = [f.data["seq"] for f in records(overall) + rest if f.data["session_id"] == session]
    assert mine == list(range(3, total + 1))
    followed = [first.data["seq"]]
    kinds = set()
    for event in follower:
        kinds.add(event.event)
        if event.event == "record":
            followed.append(event.data["seq"])
            if event.data["seq"] == total:
                break
    assert "gap" in kinds and followed == list(range(1, total + 1)), "the client does so by itself"
    ask(api, "POST", f"/v1/sessions/{session}/end", {})


def test_a_reader_that_leaves_is_forgotten(api: DaemonProcess) -> None:
    session = api.session("leaves")
    streams = [Stream(api, f"/v1/sessions/{session}/stream") for _ in range(5)]
    for stream in streams:
        stream.until("sync")
    before = ask(api, "GET", "/v1/status").json["subscribers"]
    for stream in streams:
        stream.__exit__()
    asked = (ask(api, "GET", "/v1/status").json["subscribers"] for _ in range(2_000))
    assert any(subscribers <= before - 5 for subscribers in asked)


def test_draining_ends_streams_and_waits_with_a_reason_and_takes_no_commands(own: DaemonProcess) -> None:
    gate = own.work / "gate"
    hold = {"tool_calls": [{"tool": "bash", "arguments": {"command": f"while [ ! -e {gate} ]; do sleep 0.02; done"}}]}
    own.script({**hold, "when": "HOLD"}, text("done"), after_last="repeat")
    own.session("s", "bypass")
    waiting: list[Any] = []
    waiter = threading.Thread(
        target=lambda: waiting.append(ask(own, "POST", "/v1/sessions/s/input", {"content": "HOLD"}))
    )
    waiter.start()
    own.until("s", "tool_call.started")
    with Stream(own, "/v1/sessions/s/stream") as stream, Stream(own, "/v1/events/stream") as everything:
        stream.until("sync")
        everything.until("sync")
        assert own.popen is not None
        own.popen.terminate()
        for followed in (stream, everything):
            last = list(followed)[-1]
            assert last.event == "bye" and last.id is None and "the daemon is stopping" in last.data["reason"]
    waiter.join()
    assert refusal(waiting[0]) == (503, "daemon_draining")
    assert refusal(ask(own, "GET", "/readyz")) == (503, "daemon_draining")
    assert ask(own, "GET", "/healthz").status == 200
    assert ask(own, "GET", "/v1/status").json["status"] == "draining"
    for method, path, body in (
        ("POST", "/v1/sessions", {"session_id": "t", "cwd": "/"}),
        ("POST", "/v1/sessions/s/runs", {"content": "more"}),
        ("POST", "/v1/sessions/s/input", {"content": "more"}),
        ("DELETE", "/v1/sessions/s/queue/run_x", None),
    ):
        assert refusal(ask(own, method, path, body)) == (503, "daemon_draining"), path
    with Stream(own, "/v1/sessions/s/stream") as late:
        assert [f.event for f in late][-2:] == ["sync", "bye"], "the journal can still be read"
    gate.touch()
    assert own.popen.wait(20) == 0
    obey(own).start()
    (run,) = own.client.sessions.runs("s")
    assert own.finish(run["run_id"])["status"] == "completed", "whoever waited left; the run went on"


def test_streams_across_deaths_show_each_record_once_in_order(own: DaemonProcess) -> None:
    """Followers reconnect with their last id while the daemon is killed under load."""
    sessions = [own.session(f"s{number}", "bypass") for number in range(3)]
    seen: dict[str, list[Json]] = {"": [], **{session: [] for session in sessions}}
    synced = threading.Semaphore(0)
    lasts = ("session.ended", "the-last")

    def follow(session: str) -> None:
        client = Kheish(own.socket, start=False)
        events = client.events(session_id=session) if session else client.events(cursor="0.0")
        for event in events:
            if event.event == "sync":
                synced.release()
            if event.event == "record":
                seen[session].append(event.data)
                if (event.data["session_id"] if not session else event.data["events"][-1]["type"]) in lasts:
                    return

    followers = [threading.Thread(target=follow, args=(session,)) for session in seen]
    for follower in followers:
        follower.start()
    for _ in range(3):
        for _ in followers:
            assert synced.acquire(timeout=30), "all are connected when the daemon dies"
        for session in sessions:
            own.submit(session, "SHELL")
            own.submit(session, "go")
        own.kill()
        own.start()
    for session in sessions:
        assert own.finish(own.submit(session, "go"))["status"] == "completed"
    for session in sessions:
        ask(own, "POST", f"/v1/sessions/{session}/end", {})
    own.session("the-last")
    for follower in followers:
        follower.join(30)
        assert not follower.is_alive()
    for session in sessions:
        assert seen[session] == own.records(session)
    everything = [r for session in (*sessions, "the-last") for r in own.records(session)]
    everything.sort(key=lambda r: (r["generation"], r["position"]))
    assert seen[""] == everything
