"""Secrets on the disk: sealed, whole after any crash, refused when changed, and never replaced by nothing."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kheish.errors import Conflict, Corrupt, NotFound, StoreError
from kheish.secrets.documents import Sealed, id_of, seal
from kheish.secrets.master_key import MasterKey
from kheish.secrets.service import Secrets
from kheish.store.documents import read_document, write_document
from tests.faults.disk_model import Recorder, crash_states
from tests.store.disk import FailingDisk, disk  # noqa: F401 - a fixture

CANARY = "canary-4f1c9e2b7d"


class Clock:
    def __init__(self) -> None:
        self.at_ms = 1_000

    def now_ms(self) -> int:
        self.at_ms += 1
        return self.at_ms


def open_in(folder: Path, **environ: str) -> Secrets:
    """What a daemon that starts there has."""
    folder.mkdir(exist_ok=True)
    return Secrets(folder / "secrets", MasterKey(folder / "master.key", environ, in_keyring=False), Clock())


def document(folder: Path, name: str = "a") -> Path:
    return folder / "secrets" / f"{name}.json"


def bytes_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


# -- what is kept ---------------------------------------------------------------------------------------------------


async def test_a_secret_outlives_the_daemon_and_stands_nowhere_in_the_clear(tmp_path: Path) -> None:
    made = await open_in(tmp_path).set_secret("a", CANARY)
    assert (made.name, made.version, made.created_at_ms, made.updated_at_ms, made.problem) == ("a", 1, 1_001, 1_001, "")
    assert await open_in(tmp_path).reveal("a") == CANARY
    assert CANARY.encode() not in bytes_in(tmp_path)
    assert msgspec.json.encode(CANARY.encode())[2:-4] not in bytes_in(tmp_path), "not in base64 either"


async def test_setting_it_again_counts_and_keeps_the_day_that_it_was_made(tmp_path: Path) -> None:
    secrets = open_in(tmp_path)
    await secrets.set_secret("a", "one")
    again = await secrets.set_secret("a", "two")
    assert (again.version, again.created_at_ms, again.updated_at_ms) == (2, 1_001, 1_002)
    assert await secrets.reveal("a") == "two"
    assert await secrets.get_secret("a") == again


async def test_the_same_value_never_looks_the_same_twice(tmp_path: Path) -> None:
    secrets = open_in(tmp_path)
    seen = set()
    for name in ("a", "b", "a"):
        await secrets.set_secret(name, CANARY)
        sealed = read_document(document(tmp_path, name), Sealed)
        seen |= {sealed.nonce, sealed.ciphertext}
    assert len(seen) == 6


@pytest.mark.parametrize("value", ["k", "ключ 🔑", "a\nb\n", "x" * 65_536, "\0"])
async def test_any_text_comes_back_as_it_was(tmp_path: Path, value: str) -> None:
    secrets = open_in(tmp_path)
    await secrets.set_secret("a", value)
    assert await secrets.reveal("a") == value


async def test_all_that_is_made_is_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        await open_in(tmp_path).set_secret("a", "one")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"secrets": 0o700, "a.json": 0o600, "master.key": 0o600}


async def test_secrets_are_listed_by_name_and_rubbish_is_none_of_them(tmp_path: Path) -> None:
    secrets = open_in(tmp_path)
    assert await secrets.list_secrets() == []
    for name in ("b", "a.c", "a"):
        await secrets.set_secret(name, name)
    for stray in (".tmp-0123", "notes.txt", "A B.json", "UPPER.json"):
        (tmp_path / "secrets" / stray).write_text("x")
    assert [secret.name for secret in await open_in(tmp_path).list_secrets()] == ["a", "a.c", "b"]
    assert not (tmp_path / "secrets" / ".tmp-0123").exists(), "what a crash left is cleared at the start"


async def test_a_deleted_secret_is_gone(tmp_path: Path) -> None:
    secrets = open_in(tmp_path)
    made = await secrets.set_secret("a", "one")
    assert await secrets.delete_secret("a") == made
    for use in (secrets.get_secret, secrets.reveal, secrets.delete_secret):
        with pytest.raises(NotFound, match="kheish secrets set a") as caught:
            await use("a")
        assert caught.value.code == "secret_not_found"
    assert (await secrets.set_secret("a", "two")).version == 1


async def test_many_who_set_at_once_all_get_their_version(tmp_path: Path) -> None:
    secrets = open_in(tmp_path)
    made = await asyncio.gather(
        *(secrets.set_secret("a", f"value-{n}") for n in range(20)), secrets.set_secret("b", "b")
    )
    assert sorted(secret.version for secret in made[:20]) == [*range(1, 21)]
    last = next(n for n, secret in enumerate(made) if secret.version == 20)
    assert await open_in(tmp_path).reveal("a") == f"value-{last}"
    assert await open_in(tmp_path).reveal("b") == "b"


# -- what was changed, and what is missing --------------------------------------------------------------------------


def rewrite(**changes: Any) -> Callable[[Path], None]:
    """By somebody who knows the format, and makes the checksum anew."""

    def change(folder: Path) -> None:
        path = document(folder)
        write_document(path, msgspec.structs.replace(read_document(path, Sealed), **changes))

    return change


def swap(folder: Path) -> None:
    first, second = document(folder).read_bytes(), document(folder, "b").read_bytes()
    document(folder).write_bytes(second)
    document(folder, "b").write_bytes(first)


def reseal_under_the_name_of_b(folder: Path) -> None:
    key = MasterKey(folder / "master.key", {}, in_keyring=False).read(may_make=False)
    head = Sealed(version=1, created_at_ms=1_001, updated_at_ms=1_001, key_id=id_of(key))
    write_document(document(folder), seal(head, "b", CANARY, key))


TAMPERED: dict[str, Callable[[Path], None]] = {
    "another version": rewrite(version=7),
    "another day of making": rewrite(created_at_ms=5),
    "another day of setting": rewrite(updated_at_ms=5),
    "another nonce": rewrite(nonce=bytes(12)),
    "a nonce too short": rewrite(nonce=b"x"),
    "no ciphertext": rewrite(ciphertext=b""),
    "another ciphertext": rewrite(ciphertext=bytes(40)),
    "that of another secret": swap,
    "sealed for another": reseal_under_the_name_of_b,
}


@pytest.mark.parametrize("how", TAMPERED)
async def test_a_document_that_was_changed_with_care_is_refused_and_left_alone(tmp_path: Path, how: str) -> None:
    await open_in(tmp_path).set_secret("a", CANARY)
    await open_in(tmp_path).set_secret("b", CANARY)
    TAMPERED[how](tmp_path)
    left = document(tmp_path).read_bytes()
    secrets = open_in(tmp_path)
    with pytest.raises(Corrupt) as caught:
        await secrets.reveal("a")
    assert caught.value.code == "secret_tampered"
    assert CANARY not in caught.value.message and "restore it from a backup" in caught.value.message
    assert (await secrets.get_secret("a")).problem == caught.value.message
    assert document(tmp_path).read_bytes() == left


async def test_every_flipped_byte_is_seen(tmp_path: Path) -> None:
    await open_in(tmp_path).set_secret("a", CANARY)
    whole = document(tmp_path).read_bytes()
    secrets = open_in(tmp_path)
    for at in range(len(whole)):
        document(tmp_path).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(StoreError):
            secrets._reveal("a")
    for length in range(len(whole)):
        document(tmp_path).write_bytes(whole[:length])
        with pytest.raises(StoreError):
            secrets._reveal("a")


async def test_what_is_damaged_hides_no_other_and_may_be_set_or_deleted(tmp_path: Path) -> None:
    secrets = open_in(tmp_path)
    for name in ("a", "b", "c"):
        await secrets.set_secret(name, name)
    document(tmp_path).write_bytes(b"")
    document(tmp_path, "b").write_bytes(b"rubbish\n")
    rows = await secrets.list_secrets()
    assert [(row.name, row.version, bool(row.problem)) for row in rows] == [
        ("a", 0, True),
        ("b", 0, True),
        ("c", 1, False),
    ]
    assert str(document(tmp_path)) in rows[0].problem
    assert (await secrets.set_secret("a", "anew")).version == 1
    await secrets.delete_secret("b")
    assert [(await secrets.reveal(name)) for name in ("a", "c")] == ["anew", "c"]


async def test_nothing_is_read_or_replaced_through_a_link(tmp_path: Path) -> None:
    secrets = open_in(tmp_path)
    await secrets.set_secret("b", "b")
    document(tmp_path).symlink_to("b.json")
    for use in (secrets.reveal("a"), secrets.set_secret("a", "x")):
        with pytest.raises(StoreError) as caught:
            await use
        assert caught.value.code == "disk_failed"
    assert document(tmp_path).is_symlink()


async def test_under_a_wrong_master_key_nothing_is_read_changed_or_added(tmp_path: Path) -> None:
    await open_in(tmp_path).set_secret("a", "one")
    await open_in(tmp_path).set_secret("b", "two")
    before = bytes_in(tmp_path)
    wrong = open_in(tmp_path, KHEISH_AUTH_STORE_MASTER_KEY="00" * 32)
    with pytest.raises(Conflict, match="cannot read the secret a: another master key sealed it"):
        await wrong.reveal("a")
    assert [row.problem.partition(": ")[2] for row in await wrong.list_secrets()] == [
        "another master key sealed it"
    ] * 2
    for name in ("a", "c"):
        with pytest.raises(Conflict, match="another one sealed ") as caught:
            await wrong.set_secret(name, "three")
        assert caught.value.code == "master_key_wrong"
    assert bytes_in(tmp_path) == before
    assert await open_in(tmp_path).reveal("a") == "one"


async def test_a_lost_master_key_is_not_made_anew_over_what_it_sealed(tmp_path: Path) -> None:
    await open_in(tmp_path).set_secret("a", "one")
    key = (tmp_path / "master.key").read_bytes()
    (tmp_path / "master.key").unlink()
    secrets = open_in(tmp_path)
    for use in (secrets.reveal("a"), secrets.set_secret("b", "two")):
        with pytest.raises(Conflict, match="restore it") as caught:
            await use
        assert caught.value.code == "master_key_wrong"
    assert not (tmp_path / "master.key").exists()
    (tmp_path / "master.key").write_bytes(key)
    assert await secrets.reveal("a") == "one", "without a restart"


async def test_who_lost_the_master_key_begins_anew_by_setting_the_last_secret(tmp_path: Path) -> None:
    await open_in(tmp_path).set_secret("a", "one")
    (tmp_path / "master.key").unlink()
    secrets = open_in(tmp_path)
    await secrets.set_secret("a", "two")
    assert await secrets.reveal("a") == "two"


# -- a disk that fails, and deaths ----------------------------------------------------------------------------------


async def test_a_full_disk_refuses_and_leaves_what_was(tmp_path: Path, disk: FailingDisk) -> None:  # noqa: F811
    secrets = open_in(tmp_path)
    await secrets.set_secret("a", "one")
    disk.fail_writes_after = 3
    with pytest.raises(StoreError) as caught:
        await secrets.set_secret("a", CANARY)
    assert caught.value.code == "disk_failed" and "keep the secret a" in caught.value.message
    assert CANARY not in caught.value.message
    assert await secrets.reveal("a") == "one"
    assert sorted(os.listdir(tmp_path / "secrets")) == ["a.json"]


async def test_after_a_crash_anywhere_each_secret_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    """And the new one, or gone, once that was acknowledged."""
    scene = tmp_path / "scene"
    scene.mkdir()
    with Recorder(scene) as recorder:
        secrets = open_in(scene)
        for step, value in enumerate(("one", "two", None, "three"), 1):
            await (secrets.delete_secret("a") if value is None else secrets.set_secret("a", value))
            recorder.mark("acknowledged", step)
    values = (None, "one", "two", None, "three")
    seen, states = set(), 0
    for state in crash_states(recorder.recording(), 600, seed=1):
        place = tmp_path / "state"
        place.mkdir()
        state.build(place)
        acknowledged = state.marks.get("acknowledged", 0)
        opened = open_in(place)
        try:
            found: str | None = opened._reveal("a")
        except NotFound:
            found = None
        assert found in values[acknowledged : acknowledged + 2], (state.at, acknowledged, found)
        assert opened._set("a", "after").problem == "" and opened._reveal("a") == "after"
        seen.add(found)
        states += 1
        for path in sorted(place.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        place.rmdir()
    assert seen == {None, "one", "two", "three"} and states > 50


async def test_the_documents_of_today_are_the_documents_of_tomorrow(tmp_path: Path) -> None:
    """One that this release wrote, as bytes: a change of the format needs an upgrade."""
    (tmp_path / "secrets").mkdir()
    document(tmp_path).write_bytes(RELEASED)
    secrets = open_in(tmp_path, KHEISH_AUTH_STORE_MASTER_KEY="0f" * 32)
    assert await secrets.reveal("a") == CANARY
    shown = await secrets.get_secret("a")
    assert (shown.version, shown.created_at_ms, shown.updated_at_ms) == (2, 1_001, 1_002)
    assert json.loads(RELEASED)["v"] == 1


RELEASED = (
    b'{"v":1,"document":{"version":2,"created_at_ms":1001,"updated_at_ms":1002,"key_id":"9db3aff7f5501f5f"'
    b',"nonce":"8hdIg4Rcw1vUptZ2","ciphertext":"HRR3mKrvlDAxqMGMxDHVKZl0W/jzCLVfT/3PpXMFlANF"},"sum":"36d5'
    b'06e0fbcd49f9"}\n'
)
