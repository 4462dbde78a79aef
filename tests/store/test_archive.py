"""Export and import: a round trip is byte for byte, and nothing that was tampered with becomes visible."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kheish.errors import Conflict, Corrupt, Invalid, KheishError, NewerFormat, NotFound
from kheish.store import archive
from kheish.store.archive import export_session, import_session
from kheish.store.blobs import Blobs
from kheish.store.checkpoint import checkpoint_name
from kheish.store.locks import SessionLock
from kheish.store.packed import is_packed
from kheish.store.records import Record, segment_name
from kheish.store.session_dir import clear_unfinished
from kheish.store.vacuum import vacuum_session
from kheish.store.verify import verify_session
from tests.store.disk import FailingDisk
from tests.store.sessions import SESSION, Session, built, numbers

Members = dict[str, bytes]


def exported(session: Session) -> bytes:
    out = io.BytesIO()
    export_session(session.root, session.path.name, out)
    return out.getvalue()


def members(archive: bytes) -> Members:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def packed(content: Members | list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in content.items() if isinstance(content, dict) else content:
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if member.isreg():
                member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def remade(content: Members, **manifest: Any) -> Members:
    """The members with a manifest that fits them, as a forger would write it."""
    made = json.loads(content["manifest.json"]) | manifest
    made["files"] = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in content.items()
        if name != "manifest.json"
    }
    return {"manifest.json": json.dumps(made).encode()} | {
        name: data for name, data in content.items() if name != "manifest.json"
    }


@pytest.fixture
def full(session: Session, small_segments: int) -> Session:
    """Three segments, a checkpoint, two blobs, one of them named by no record."""
    blobs = Blobs(session.root)
    session.append(4, blob=blobs.put(b"large tool output"))
    blobs.put(b"of somebody else")
    session.append(4, gen=3)
    session.checkpoint(5)
    return session


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return tmp_path / "other"


def test_a_round_trip(full: Session, other: Path) -> None:
    archive = exported(full)
    sha = hashlib.sha256(b"large tool output").hexdigest()
    assert list(members(archive)) == [
        "manifest.json",
        *(f"session/{segment_name(first)}" for first in (1, 4, 7)),
        f"session/{checkpoint_name(5)}",
        f"blobs/{sha}",
    ]
    manifest = import_session(other, io.BytesIO(archive))
    assert (manifest.session, manifest.last_seq, manifest.gen) == (SESSION, 8, 3)
    for path in full.segments:
        assert (other / "sessions" / SESSION / path.name).read_bytes() == path.read_bytes()
    assert Blobs(other).read(sha) == b"large tool output"
    assert verify_session(other / "sessions" / SESSION) == []
    again = Session.open(other)
    assert numbers(again.opened.state.tail) == list(range(1, 9))
    again.append(2, gen=3)
    again.close()
    assert os.listdir(other / "sessions") == [SESSION]


def test_a_live_session_is_exported_up_to_its_last_whole_line(full: Session, other: Path) -> None:
    with full.segments[-1].open("ab") as file:
        file.write(b'{"v":1,"seq":9')
    assert import_session(other, io.BytesIO(exported(full))).last_seq == 8
    assert numbers(Session.open(other).opened.state.tail) == list(range(1, 9))


def test_an_import_that_gets_no_lock_leaves_nothing(
    full: Session, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived = io.BytesIO(exported(full))

    def fail(lock: SessionLock) -> SessionLock:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SessionLock, "acquire", fail)
    with pytest.raises(OSError, match="No space left"):
        import_session(other, archived)
    assert list((other / "sessions").iterdir()) == []


@pytest.mark.parametrize("written_after", [0, 1])
def test_a_session_that_is_put_away_and_packed_meanwhile_is_exported_as_it_was(
    written_after: int, full: Session, other: Path
) -> None:
    def put_away_at_the_end(record: Record) -> list[str]:
        if record.seq == 8:
            full.append(written_after, gen=3)
            full.journal.end_segment()
            full.close()
            vacuum_session(full.path)
        return []

    out = io.BytesIO()
    export_session(full.root, SESSION, out, blob_refs=put_away_at_the_end)
    assert [path.name for path in full.segments if is_packed(path)] == [f"{segment_name(n)}.gz" for n in (1, 4, 7)]
    out.seek(0)
    last_seq = import_session(other, out).last_seq
    assert numbers(Session.open(other).opened.state.tail) == list(range(1, last_seq + 1))
    assert last_seq in (8, 8 + written_after)


@pytest.mark.parametrize("is_packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("left", [b"", b'{"v":1,"se', b"rubbish\n"])
def test_what_a_failed_write_left_is_taken_along_and_not_read(
    session: Session, disk: FailingDisk, other: Path, left: bytes, is_packed: bool
) -> None:
    session.append(3)
    disk.fail_data_syncs = {len(disk.data_syncs) + 1}
    session.append(2)
    with open(session.segments[0], "ab") as file:
        file.write(left)
    session.close()
    if is_packed:
        vacuum_session(session.path)
        assert session.segments[0].suffix == ".gz"
    import_session(other, io.BytesIO(exported(session)))
    assert verify_session(other / "sessions" / SESSION) == []
    again = Session.open(other)
    assert again.opened.set_aside == [] and numbers(again.opened.state.tail) == [1, 2, 3, 4, 5]
    again.append(1)
    again.close()


def test_a_corrupt_session_is_not_exported(full: Session) -> None:
    path = full.segments[1]
    path.write_bytes(path.read_bytes().replace(b"happened", b"hAppened", 1))
    with pytest.raises(Corrupt):
        exported(full)
    with pytest.raises(NotFound):
        export_session(full.root, "nobody", io.BytesIO())
    with pytest.raises(Invalid):
        export_session(full.root, "../x", io.BytesIO())


def test_a_named_blob_that_is_gone_stops_the_export(full: Session) -> None:
    with pytest.raises(NotFound):
        export_session(full.root, SESSION, io.BytesIO(), blob_refs=lambda _: ["a" * 64])


def test_an_existing_session_is_not_replaced(full: Session) -> None:
    before = {path: path.read_bytes() for path in full.segments}
    with pytest.raises(Conflict) as caught:
        import_session(full.root, io.BytesIO(exported(full)))
    assert caught.value.code == "session_exists"
    assert {path: path.read_bytes() for path in full.segments} == before


def refused(other: Path, archive: bytes, *kinds: type[KheishError]) -> None:
    with pytest.raises(kinds or (Corrupt, Invalid)):
        import_session(other, io.BytesIO(archive))
    sessions = other / "sessions"
    assert not sessions.exists() or os.listdir(sessions) == []


def test_an_unknown_format_is_refused(full: Session, other: Path) -> None:
    content = members(exported(full))
    refused(other, packed(remade(content, format=2)), NewerFormat)


def test_every_member_is_needed_and_no_other(full: Session, other: Path) -> None:
    content = members(exported(full))
    for name in content:
        refused(other, packed({key: data for key, data in content.items() if key != name}))
    refused(other, packed(content | {"session/extra": b"x"}))
    refused(other, packed([*((tarfile.TarInfo(name), data) for name, data in content.items())] * 2))


def test_changed_members_are_refused(full: Session, other: Path) -> None:
    content = members(exported(full))
    for name, data in content.items():
        if name == "manifest.json":
            continue
        for changed in (data[:-1], data + b"x", data.replace(b"a", b"b", 1)):
            refused(other, packed(content | {name: changed}), Corrupt)


def test_a_manifest_that_fits_does_not_make_a_journal_true(full: Session, other: Path) -> None:
    content = members(exported(full))
    second = f"session/{segment_name(4)}"
    refused(other, packed(remade(content | {second: content[second].replace(b"happened", b"hAppened")})), Corrupt)
    refused(other, packed(remade({key: data for key, data in content.items() if key != second})), Corrupt)
    refused(other, packed(remade(content, session="renamed")), Corrupt)
    refused(other, packed(remade(content, last_seq=7)), Corrupt)
    last = f"session/{segment_name(7)}"
    refused(other, packed(remade(content | {last: content[last][:-4]})), Corrupt)
    (blob,) = (name for name in content if name.startswith("blobs/"))
    forged = remade({key: data for key, data in content.items() if key != blob} | {"blobs/" + "a" * 64: b"x"})
    refused(other, packed(forged), Corrupt)


def test_a_manifest_that_is_no_text_is_refused(full: Session, other: Path) -> None:
    content = members(exported(full))
    manifest = content["manifest.json"].replace(SESSION.encode(), b"\xff1")
    assert manifest != content["manifest.json"]
    refused(other, packed(content | {"manifest.json": manifest}))


@pytest.mark.parametrize(
    "name",
    [
        "../escape",
        "/etc/escape",
        "session/../../escape",
        "session/journal-000000000001.jsonl/../x",
        "blobs/../escape",
        "session/other",
        "session/.tmp-x",
        "blobs/aa",
    ],
)
def test_no_name_leads_elsewhere(full: Session, other: Path, name: str) -> None:
    content = members(exported(full))
    refused(other, packed(remade(content | {name: b"x"})))
    refused(other, packed(content | {name: b"x"}))


@pytest.mark.parametrize("session_id", ["../x", "", ".new-x", "a/b"])
def test_no_session_id_leads_elsewhere(full: Session, other: Path, session_id: str) -> None:
    refused(other, packed(remade(members(exported(full)), session=session_id)), Invalid)


def link(kind: bytes) -> Callable[[str], tarfile.TarInfo]:
    def make(name: str) -> tarfile.TarInfo:
        member = tarfile.TarInfo(name)
        member.type = kind
        member.linkname = "/etc/passwd"
        return member

    return make


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE])
def test_only_regular_files(full: Session, other: Path, kind: bytes) -> None:
    content = members(exported(full))
    made = [(tarfile.TarInfo(name), data) for name, data in content.items()]
    name = f"session/{segment_name(4)}"
    refused(
        other, packed([(link(kind)(name), b"") if member.name == name else (member, data) for member, data in made])
    )
    refused(other, packed([(link(kind)("manifest.json"), b""), *made[1:]]))


def refused_or_whole(other: Path, archive: bytes) -> bool:
    """Whether it was taken in; then nothing may be missing from it."""
    try:
        import_session(other, io.BytesIO(archive))
    except (Corrupt, Invalid, NewerFormat):
        assert not (other / "sessions" / SESSION).exists()
        return False
    assert verify_session(other / "sessions" / SESSION) == []
    again = Session.open(other)
    assert numbers(again.opened.state.tail) == list(range(1, 9))
    again.close()
    shutil.rmtree(other / "sessions" / SESSION)
    return True


def test_cut_and_flipped_archives(full: Session, other: Path) -> None:
    """Only what carries no content may be cut or changed: the padding of the tar and the header of the gzip."""
    archive = exported(full)
    accepted = [size for size in range(0, len(archive), 7) if refused_or_whole(other, archive[:size])]
    assert min(accepted, default=len(archive)) > len(archive) - 64
    for at in range(0, len(archive), 5):
        changed = bytearray(archive)
        changed[at] ^= 0x10
        refused_or_whole(other, bytes(changed))


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"\0" * 2000, gzip.compress(b""), gzip.compress(b"x" * 5000)],
    ids=["nothing", "a byte", "zeros", "packed nothing", "packed text"],
)
def test_what_is_no_archive(other: Path, data: bytes) -> None:
    refused(other, data, Invalid)


def test_a_daemon_that_starts_meanwhile_leaves_an_import_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built(root, 3)
    out = io.BytesIO()
    export_session(root, SESSION, out, blob_refs=lambda record: [])
    out.seek(0)
    extract = archive._extract

    def extract_and_start(*arguments: Any) -> None:
        extract(*arguments)
        clear_unfinished(tmp_path)

    monkeypatch.setattr(archive, "_extract", extract_and_start)
    import_session(tmp_path, out)
    assert numbers(Session.open(tmp_path).opened.state.tail) == [1, 2, 3]


def test_imports_and_starts_of_a_daemon_do_not_get_in_each_others_way(root: Path, tmp_path: Path) -> None:
    built(root, 3)
    out = io.BytesIO()
    export_session(root, SESSION, out, blob_refs=lambda record: [])
    is_over = threading.Event()

    def start_again_and_again() -> None:
        while not is_over.is_set():
            clear_unfinished(tmp_path)

    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(start_again_and_again)
        try:
            for number in range(60):
                import_session(tmp_path, io.BytesIO(out.getvalue()))
                (tmp_path / "sessions" / SESSION).rename(tmp_path / str(number))
        finally:
            is_over.set()
        starting.result()
