"""A program that a tool call runs: it tries, as a client, everything that a run may not do, and some that it may.

    python trespass.py HOW SOCKET OUT APPROVAL QUESTION

HOW is `plainly`; `orphan`: from a process that has cut its ties to whoever started it; or `ghost`: over a connection
made by a process that is gone. Writes what came of each attempt to OUT, as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable

from kheish.client import ApiError, Kheish
from kheish.client.http1 import Request


def attempts(path: str, approval: str, question: str) -> dict[str, Callable[[], object]]:
    kheish = Kheish(path, origin="trespass", start=False)
    allow = {"resolutions": [{"request_id": approval, "resolution": "allow"}]}
    decline = {"resolution": {"request_id": question, "declined": True}}
    run_id = kheish.approvals.get(approval)["run_id"]

    def post(target: str, body: object) -> Callable[[], object]:
        return lambda: kheish.send(Request("POST", target, body=body))

    return {
        "approve": lambda: kheish.approvals.allow(approval),
        "approve always": lambda: kheish.approvals.resolve(approval, "allow", remember="always"),
        "approve by session": post("/v1/sessions/victim/approvals", allow),
        "approve by approval-runs": post("/v1/sessions/victim/approval-runs", allow),
        "approve by run": post(f"/v1/runs/{run_id}/approvals", allow),
        "deny": lambda: kheish.approvals.deny(approval),
        "answer": lambda: kheish.questions.answer(question, declined=True),
        "answer by session": post("/v1/sessions/curious/questions", decline),
        "mode": lambda: kheish.sessions.set_permission_mode("victim", "bypass"),
        "pause": lambda: kheish.sessions.pause_queue("victim"),
        "resume": lambda: kheish.sessions.resume_queue("victim"),
        "rule": lambda: kheish.sessions.add_rule("victim", "bash", "allow"),
        "new session without limits": lambda: kheish.sessions.create("evil", permission_mode="bypass"),
        "read": lambda: kheish.sessions.get("victim"),
        "inbox": lambda: kheish.daemon.inbox(),
        "stream": lambda: next(iter(kheish.events(session_id="victim"))),
        "submit": lambda: kheish.sessions.submit("quiet", "from a run"),
        "create": lambda: kheish.sessions.create(),
    }


def outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except ApiError as error:
        return f"{error.status} {error.code}"
    return "done"


def approve_as_a_ghost(path: str, approval: str) -> str:
    """A child connects the socket that both share, and is gone before the daemon, which is made to sleep, can look."""
    with socket.socket(socket.AF_UNIX) as first:
        first.connect(path)
        daemon: int = struct.unpack("iII", first.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    connection = socket.socket(socket.AF_UNIX)
    os.kill(daemon, signal.SIGSTOP)
    child = os.fork()
    if not child:
        connection.connect(path)
        os._exit(0)
    os.waitpid(child, 0)
    os.kill(daemon, signal.SIGCONT)
    connection.sendall(Request("POST", f"/v1/approvals/{approval}", body={"resolution": "allow"}).encode("trespass"))
    answer = b""
    while part := connection.recv(65536):
        answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    return f"{head[9:12].decode()} {json.loads(body).get('code', 'done')}"


def cut_ties() -> None:
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)


def main(how: str, path: str, out: str, approval: str, question: str) -> None:
    if how == "orphan":
        cut_ties()
    if how == "ghost":
        found = {"approve": approve_as_a_ghost(path, approval)}
    else:
        found = {name: outcome(attempt) for name, attempt in attempts(path, approval, question).items()}
    with open(f"{out}.part", "w", encoding="utf-8") as file:
        json.dump(found, file)
    os.rename(f"{out}.part", out)  # noqa: TID251 - nothing here has to survive a crash


if __name__ == "__main__":
    main(*sys.argv[1:])
