"""Atomic replacement, documents and blobs."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kheish.errors import Corrupt, Invalid, NewerFormat, NotFound
from kheish.store import atomic
from kheish.store.blobs import Blobs, is_blob_name
from kheish.store.documents import read_document, write_document
from kheish.store.framing import seal


class Calls:
    """The order of syncs and renames."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        for name in ("fsync", "replace", "unlink", "mkdir"):
            monkeypatch.setattr(os, name, self._noting(name, getattr(os, name)))

    def _noting(self, name: str, call: Any) -> Any:
        def noting(*arguments: Any, **options: Any) -> Any:
            kind = name
            if name == "fsync":
                kind = "fsync dir" if stat.S_ISDIR(os.fstat(arguments[0]).st_mode) else "fsync file"
            self.names.append(kind)
            return call(*arguments, **options)

        return noting


def test_a_file_is_synced_before_its_rename_and_its_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch)
    atomic.replace_file(tmp_path / "a", b"one")
    assert calls.names == ["fsync file", "replace", "fsync dir"]
    atomic.replace_file(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a"]
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_a_failed_replacement_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atomic.replace_file(tmp_path / "a", b"one")

    def failing(fd: int) -> None:
        raise OSError(5, "EIO")

    monkeypatch.setattr(atomic, "sync_file", failing)
    with pytest.raises(OSError):
        atomic.replace_file(tmp_path / "a", b"two")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"one"


def test_private_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    atomic.make_private_dir(tmp_path / "a" / "b")
    assert calls.names == ["mkdir", "mkdir", "fsync dir", "mkdir", "fsync dir"]
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "a/b")] == [0o700, 0o700]
    atomic.make_private_dir(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        atomic.make_private_dir(tmp_path / "file")


def test_nothing_is_read_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(OSError):
        atomic.read_file(tmp_path / "link")


def test_temporary_files_are_cleared(tmp_path: Path) -> None:
    (tmp_path / "keep").touch()
    atomic.temp_beside(tmp_path / "keep").touch()
    atomic.clear_temps(tmp_path)
    assert os.listdir(tmp_path) == ["keep"]


# -- documents ------------------------------------------------------------------------------------------------------


class Settings(msgspec.Struct):
    name: str
    count: int = 0


def test_a_document_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    with pytest.raises(FileNotFoundError):
        read_document(path, Settings)
    write_document(path, Settings("a", 3))
    assert read_document(path, Settings) == Settings("a", 3)
    write_document(path, {"name": "b"})
    assert read_document(path, Settings) == Settings("b")


def test_a_damaged_document_is_never_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    write_document(path, Settings("a", 3))
    whole = path.read_bytes()
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            with pytest.raises(Corrupt) as caught:
                read_document(path, Settings)
            assert caught.value.details["file"] == str(path)
    write_document(path, {"other": 1})
    with pytest.raises(Corrupt):
        read_document(path, Settings)
    path.write_bytes(seal(b'{"v":2,"document":{}}')[0])
    with pytest.raises(NewerFormat):
        read_document(path, Settings)


# -- blobs ----------------------------------------------------------------------------------------------------------


def test_a_blob_round_trip(root: Path) -> None:
    blobs = Blobs(root)
    data = os.urandom(300_000)
    sha = blobs.put(data)
    assert sha == hashlib.sha256(data).hexdigest()
    assert blobs.put(data) == sha
    assert Blobs(root).put(data) == sha
    assert blobs.path(sha) == root / "blobs" / sha[:2] / sha
    assert blobs.exists(sha)
    assert blobs.size(sha) == len(data)
    assert blobs.read(sha) == data
    assert blobs.read(sha, 100, 50) == data[100:150]
    assert blobs.read(sha, 299_990, 50) == data[-10:]
    assert blobs.read(sha, 400_000, 50) == b""
    assert b"".join(blobs.chunks(sha, 1000)) == data
    assert blobs.put_chunks([data[:10], data[10:]]) == sha
    blobs.verify(sha)
    assert [path.name for path in root.rglob("*") if path.is_file()] == [sha]
    assert blobs.put(b"") == hashlib.sha256(b"").hexdigest()


def test_a_blob_is_durable_before_its_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = Blobs(root)
    calls = Calls(monkeypatch)
    blobs.put(b"one")
    assert calls.names[-4:] == ["mkdir", "fsync dir", "replace", "fsync dir"]
    assert calls.names.count("fsync file") == 1
    assert calls.names.index("fsync file") < calls.names.index("replace")
    calls.names.clear()
    blobs.put(b"one")
    assert calls.names == ["fsync dir"]


def test_a_damaged_blob_is_found_and_whole_again_where_it_is_put_again(root: Path) -> None:
    blobs = Blobs(root)
    sha = blobs.put(b"hello")
    blobs.path(sha).write_bytes(b"hullo")
    with pytest.raises(Corrupt):
        blobs.verify(sha)
    for damaged in (b"hullo", b"he"):
        blobs.path(sha).write_bytes(damaged)
        blobs.put(b"hello")
        assert blobs.read(sha) == b"hello"


@pytest.mark.parametrize(
    "name", ["", "../../etc/passwd", "a" * 63, "A" * 64, "a" * 65, "a" * 64 + "\n", "/" * 64, "a/" * 32]
)
def test_nothing_but_a_digest_names_a_blob(root: Path, name: str) -> None:
    blobs = Blobs(root)
    assert not is_blob_name(name)
    for call in (blobs.path, blobs.exists, blobs.size, blobs.read, blobs.verify):
        with pytest.raises(Invalid):
            call(name)


def test_a_missing_blob(root: Path) -> None:
    blobs = Blobs(root)
    assert not blobs.exists("a" * 64)
    for call in (blobs.size, blobs.read, blobs.verify):
        with pytest.raises(NotFound):
            call("a" * 64)
    with pytest.raises(Invalid):
        blobs.read("a" * 64, -1)


def test_a_failed_blob_leaves_no_rubbish(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = Blobs(root)

    def failing(fd: int) -> None:
        raise OSError(5, "EIO")

    monkeypatch.setattr("kheish.store.blobs.sync_file", failing)
    with pytest.raises(OSError):
        blobs.put(b"hello")
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_a_blob_that_somebody_is_making_is_left_alone_and_what_a_death_left_is_deleted(root: Path) -> None:
    """An import makes them beside a daemon that starts."""
    left = root / "blobs" / ".tmp-left"
    Blobs(root).put(b"another")
    left.write_bytes(b"left")
    (root / "blobs" / ".tmp-directory").mkdir()

    def chunks() -> Iterator[bytes]:
        yield b"one"
        Blobs(root).clear_unfinished()
        assert not left.exists()
        yield b"two"

    assert Blobs(root).read(Blobs(root).put_chunks(chunks())) == b"onetwo"


def test_a_blob_that_was_cleared_before_it_was_locked_is_begun_anew(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Blobs(root).put(b"another")
    flock, clears = fcntl.flock, [Blobs(root).clear_unfinished]

    def flock_late(fd: int, operation: int) -> None:
        if clears:
            clears.pop()()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock_late)
    assert Blobs(root).read(Blobs(root).put(b"one")) == b"one"
    assert not list((root / "blobs").glob(".tmp-*"))


def test_where_no_directory_can_be_made_it_says_so() -> None:
    with pytest.raises(FileNotFoundError):
        atomic.make_private_dir(Path("/proc/kheish-test/state"))


def test_an_unfinished_file_that_its_maker_takes_away_meanwhile_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who opens a session clears what a vacuum, which ends for that, clears too."""
    atomic.temp_beside(tmp_path / "journal-000000000001.jsonl").write_bytes(b"half")
    unlink = os.unlink

    def unlink_second(path: str) -> None:
        unlink(path)
        unlink(path)

    monkeypatch.setattr(os, "unlink", unlink_second)
    atomic.clear_temps(tmp_path)
    assert list(tmp_path.iterdir()) == []
