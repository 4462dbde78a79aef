"""Following without a socket: frames out of any pieces of bytes, and the place that a follower keeps."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.api.streams import encode
from kheish.client.errors import DaemonUnreachable
from kheish.client.follow import PATIENCE_S, Frame, Place, SseParser

EVENT = st.tuples(
    st.sampled_from(["record", "delta", "sync", "heartbeat"]), st.sampled_from(["", "1", "3.14"]), st.text(max_size=40)
)


def parse(pieces: list[bytes]) -> list[tuple[str, str, object]]:
    parser = SseParser()
    return [(event.event, event.id, event.data) for piece in pieces for event in parser.feed(piece)]


@given(st.lists(EVENT, max_size=5), st.lists(st.integers(0, 100), max_size=10))
def test_frames_come_out_of_any_pieces(events: list[tuple[str, str, str]], places: list[int]) -> None:
    data = b"".join(
        encode(event, json.dumps({"text": text}, ensure_ascii=False).encode(), id_) for event, id_, text in events
    )
    at = sorted({0, len(data), *(place * len(data) // 100 for place in places)})
    expected = [(event, id_, {"text": text}) for event, id_, text in events]
    assert parse([data[start:end] for start, end in itertools.pairwise(at)]) == expected
    assert parse([data[i : i + 1] for i in range(len(data))]) == expected


def test_comments_and_unknown_fields_are_passed_over_and_data_lines_are_joined() -> None:
    data = b': ping\n\nretry: 3\nevent: record\nid: 7\ndata: {"a":\ndata:1}\n\n:\n\ndata: {}\n\n'
    assert parse([data]) == [("record", "7", {"a": 1}), ("message", "", {})]


def test_a_frame_that_is_not_over_is_kept_back() -> None:
    parser = SseParser()
    assert list(parser.feed(b"id: 1\nevent: record\ndata: {}\n")) == []
    assert [event.id for event in parser.feed(b"\n")] == ["1"]


def note(place: Place, event: str, id_: str = "", **data: object) -> None:
    place.note(Frame(event, id_, data))  # type: ignore[arg-type]


def test_the_place_is_the_last_id() -> None:
    place = Place("/stream", {}, "")
    assert place.request().query == {"cursor": None}
    for event, id_ in (("record", "1"), ("delta", ""), ("record", "2"), ("heartbeat", ""), ("gap", "")):
        note(place, event, id_)
    assert place.request().query == {"cursor": "2"} and not place.is_over()


def test_a_bye_of_the_run_is_the_end_and_one_of_the_daemon_is_not() -> None:
    place = Place("/stream", {}, "")
    note(place, "bye", reason="the daemon is stopping")
    assert place.said_bye and not place.is_over()
    note(place, "sync", "5")
    assert not place.said_bye, "the next daemon may die in its turn"
    note(place, "bye", reason="the run is over")
    assert place.is_over() and not place.said_bye


def test_a_follower_waits_longer_each_time_and_not_for_ever() -> None:
    place = Place("/stream", {}, "")
    waits = [place.pause_s(now_s) for now_s in (100, 100, 100, 100, 100, 100, 100, 100 + PATIENCE_S)]
    assert waits == sorted(waits) and waits[0] < 0.1 and waits[-1] <= 0.5
    with pytest.raises(DaemonUnreachable) as raised:
        place.pause_s(100 + PATIENCE_S + 0.1)
    assert raised.value.details == {"is_absent": False, "is_broken": False}
    note(place, "sync", "1")
    assert place.pause_s(1_000) == waits[0], "an event means patience anew"


def test_a_daemon_that_stops_is_told_of_once_however_often_it_says_so() -> None:
    place = Place("/stream", {}, "")
    bye = Frame("bye", "", {"reason": "the daemon is stopping"})
    sync = Frame("sync", "3", {"cursor": "3"})
    record = Frame("record", "4", {"events": []})
    assert [place.note(event) for event in (sync, bye, sync, bye, sync, bye)] == [True, True, True, False, True, False]
    waits = [place.pause_s(0.1) for _ in range(6)]
    assert waits[-1] == max(waits) > waits[0], "and it is asked less and less often"
    assert [place.note(event) for event in (sync, record, bye)] == [True, True, True], "the next one may stop as well"
