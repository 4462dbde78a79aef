"""What is nobody's fault but the daemon's, and what is the disk's."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import pytest

from kheish.api.access import Peer
from kheish.api.app import IS_CROWDED, PEER, App
from kheish.api.endpoints import ENDPOINTS
from kheish.api.openapi import codes_of
from kheish.daemon.wiring import build_debugging, build_secrets
from kheish.providers.registry import Routes
from kheish.store.atomic import open_file
from tests.runtime.kernel import Kernel


def connect_to_nobody(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(os.fspath(root / "nobody"))


def end_a_child_that_is_gone(root: Path) -> None:
    os.waitpid(os.getpid(), 0)


def read_what_is_not_there(root: Path) -> None:
    open_file(root / "gone.jsonl")


def read_a_directory(root: Path) -> None:
    fd = os.open(root, os.O_RDONLY)
    try:
        os.read(fd, 1)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("work", "status", "code"),
    [
        (connect_to_nobody, 500, "internal_error"),
        (end_a_child_that_is_gone, 500, "internal_error"),
        (read_what_is_not_there, 503, "disk_failed"),
        (read_a_directory, 503, "disk_failed"),
    ],
)
async def test_only_what_files_refuse_is_the_disks_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[Path], None], status: int, code: str
) -> None:
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def fail(session_id: str) -> None:
        work(tmp_path)

    async with Kernel(tmp_path / "state", []) as kernel:
        secrets = build_secrets(tmp_path, tmp_path)
        debugging = build_debugging(tmp_path, Routes(tmp_path), secrets, kernel.supervisor.runtime)
        app = App(kernel.supervisor, secrets, debugging, state_root=tmp_path, socket_path=tmp_path / "socket")
        monkeypatch.setattr(kernel.supervisor.reader, "state", fail)
        path = "/v1/sessions/s"
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [],
            PEER: Peer(os.getuid(), 0),
            IS_CROWDED: False,
        }
        await app(scope, receive, send)
    assert (sent[0]["status"], json.loads(sent[1]["body"])["code"]) == (status, code)


def test_every_endpoint_says_that_it_may_fail_by_a_fault_of_the_daemon() -> None:
    assert all("internal_error" in codes_of(endpoint)[500] for endpoint in ENDPOINTS)
