"""The tools in a daemon: what is bounded, kept and journaled when a model uses them."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import pytest

from kheish.limits import TOOL_RESULT_INLINE_BYTES_MAX
from tests.daemon_process import DaemonProcess, bash, calls, text, tool

pytestmark = pytest.mark.slow


def results(daemon: DaemonProcess, session_id: str) -> list[dict[str, Any]]:
    """The completed tool calls of a session, as they were journaled."""
    events = [event for record in daemon.journal(session_id) for event in record["events"]]
    return [event for event in events if event["type"] == "tool_call.completed"]


def play(daemon: DaemonProcess, session_id: str, *replies: dict[str, Any]) -> list[dict[str, Any]]:
    model = daemon.script(*replies, text("done"), name=f"{session_id}.json")
    run = daemon.finish(daemon.submit(daemon.session(session_id, "bypass"), model=model))
    assert run["status"] == "completed", run
    return results(daemon, session_id)


def test_a_long_output_is_shortened_and_read_on_from_its_blob(shared_daemon: DaemonProcess) -> None:
    whole = "".join(f"{n}\n" for n in range(1, 20_001))
    blob = hashlib.sha256(whole.encode()).hexdigest()
    shortened, page = play(
        shared_daemon,
        "long",
        bash("seq 1 20000"),
        calls(tool("read_file", path=f"blob:{blob}", offset=10_000)),
    )
    assert shortened["blob"] == blob and shortened["output_bytes"] == len(whole)
    assert shortened["output"].startswith("1\n2\n") and shortened["output"].endswith("\n20000\n")
    assert f"read_file with the path blob:{blob}" in shortened["output"]
    assert len(shortened["output"]) < TOOL_RESULT_INLINE_BYTES_MAX
    assert page.get("blob", "") == "", "a page is shown as it is"
    assert page["output"].startswith(" 10000\t10000\n 10001\t10001\n")
    assert "go on with offset" in page["output"]


def test_a_long_file_is_read_in_pages_that_are_shown_whole(shared_daemon: DaemonProcess) -> None:
    (shared_daemon.work / "long.txt").write_text("".join(f"line {n}\n" for n in range(1, 5001)))
    (page,) = play(shared_daemon, "file", calls(tool("read_file", path="long.txt")))
    assert page.get("blob", "") == "" and "left out" not in page["output"]
    last = int(page["output"].rsplit("offset ", 1)[1].rstrip("]\n")) - 1
    assert f"{last:6d}\tline {last}\n" in page["output"]


def test_edits_of_one_file_in_one_step_all_stand(shared_daemon: DaemonProcess) -> None:
    (shared_daemon.work / "edited.txt").write_text("".join(f"line {n}.\n" for n in range(12)))
    edits = [tool("edit_file", path="edited.txt", old_text=f"line {n}.", new_text=f"edited {n}.") for n in range(12)]
    outputs = play(shared_daemon, "edits", calls(*edits))
    assert [output["output"] for output in outputs if output.get("is_error")] == []
    assert (shared_daemon.work / "edited.txt").read_text() == "".join(f"edited {n}.\n" for n in range(12))


def test_names_that_are_not_text_can_be_journaled(shared_daemon: DaemonProcess) -> None:
    work = os.fsencode(shared_daemon.work)
    with open(work + b"/caf\xe9.txt", "wb") as file:
        file.write(b"needle\n")
    os.symlink(b"caf\xe9.txt", work + b"/link")
    outputs = play(
        shared_daemon,
        "names",
        calls(
            tool("read_file", path="link"),
            tool("glob_search", pattern="caf*"),
            tool("grep_search", pattern="needle", glob="caf*"),
        ),
    )
    assert sorted(output["output"] for output in outputs) == [
        "     1\tneedle\n",
        "caf\ufffd.txt",
        "caf\ufffd.txt:1:needle",
    ]


def test_wrong_arguments_are_a_result_and_not_an_end(shared_daemon: DaemonProcess) -> None:
    (output,) = play(shared_daemon, "wrong", calls(tool("read_file", file_path="x")))
    assert output["is_error"] and "read_file takes path, [offset], [limit]" in output["output"]
