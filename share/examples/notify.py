#!/usr/bin/env python3
"""Runs a command for everything that begins to wait for a human: notify.py notify-send Kheish

The command gets one more argument: the request's id, its session and what it is about. What waits already is told
first. It follows all sessions across restarts of the daemon, and asks the API; it never reads the state root.
"""

import subprocess
import sys
from collections.abc import Iterator

from kheish.client import Kheish


def waiting(client: Kheish) -> Iterator[tuple[str, str]]:
    """(id, text) of each approval and question, the oldest first."""
    inbox = client.daemon.inbox()
    for approval in inbox["approvals"]:
        yield approval["request_id"], f"{approval['session_id']}: {approval['tool']} {approval['input']}"
    for question in inbox["questions"]:
        asked = " / ".join(item["question"] for item in question["questions"])
        yield question["request_id"], f"{question['session_id']}: {asked}"


def main(command: list[str]) -> None:
    client = Kheish(origin="notify")
    told: set[str] = set()
    # The first look comes with the stream's `sync`, after the subscription: nothing falls between the two.
    for event in client.events(cursor="tail"):
        types = {fact["type"] for fact in event.data["events"]} if event.event == "record" else set()
        if event.event == "sync" or types & {"approval.requested", "question.requested"}:
            for request_id, text in waiting(client):
                if request_id not in told:
                    told.add(request_id)
                    subprocess.run([*command, f"{request_id} {text}"], check=False)


if __name__ == "__main__":
    main(sys.argv[1:] or ["echo"])
