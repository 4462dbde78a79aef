"""Another master key: every secret keeps its value at every instant, and whatever cuts it off is gone on with."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kheish.errors import Conflict, Corrupt, KheishError, StoreError
from kheish.secrets.documents import Sealed, id_of
from kheish.secrets.master_key import FILE_VARIABLE, VARIABLE, MasterKey, make_key
from kheish.secrets.service import Secrets
from kheish.store.documents import read_document
from tests.architecture.modules import REPOSITORY
from tests.faults.disk_model import Recorder, crash_states
from tests.secrets.test_service import Clock, bytes_in, document, open_in
from tests.store.disk import FailingDisk, disk  # noqa: F401 - a fixture

VALUES = {"a": "value-a", "b": "value-b", "c": "value-c"}


async def fill(secrets: Secrets) -> None:
    for name, value in VALUES.items():
        await secrets.set_secret(name, value)


def values(secrets: Secrets) -> dict[str, str]:
    return {name: secrets._reveal(name) for name in secrets._names()}


def keys_of(folder: Path) -> set[str]:
    return {read_document(document(folder, name), Sealed).key_id for name in VALUES}


async def test_the_key_is_another_and_the_secrets_are_the_same(tmp_path: Path) -> None:
    secrets = open_in(tmp_path)
    await fill(secrets)
    await secrets.set_secret("a", VALUES["a"])
    before, old_key, old_ids = await secrets.list_secrets(), (tmp_path / "master.key").read_bytes(), keys_of(tmp_path)
    state = await secrets.rotate_key()
    assert (state.place, state.is_changing, state.problem) == (str(tmp_path / "master.key"), False, "")
    assert keys_of(tmp_path) == {state.key_id} and state.key_id not in old_ids
    assert (tmp_path / "master.key").read_bytes() != old_key
    for opened in (secrets, open_in(tmp_path)):
        assert await opened.list_secrets() == before and values(opened) == VALUES
    assert sorted(os.listdir(tmp_path)) == ["master.key", "secrets"], "nothing of the old or the following one is left"
    assert (tmp_path / "master.key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "master.key").write_bytes(old_key)
    with pytest.raises(Conflict, match="another master key sealed it"):
        open_in(tmp_path)._reveal("a")


async def test_without_secrets_there_is_a_key_after_it_and_before_there_is_none(tmp_path: Path) -> None:
    secrets = open_in(tmp_path)
    state = await secrets.get_key()
    assert (state.key_id, state.problem) == ("", "") and not (tmp_path / "master.key").exists()
    first = (await secrets.rotate_key()).key_id
    assert first == (await secrets.get_key()).key_id != (await secrets.rotate_key()).key_id


async def test_the_file_that_the_variable_names_is_replaced_where_it_lies(tmp_path: Path) -> None:
    given, link = tmp_path / "elsewhere" / "given.key", tmp_path / "link.key"
    given.parent.mkdir()
    given.write_text(f"{make_key()}\n")
    link.symlink_to(given)
    secrets = open_in(tmp_path / "state", **{FILE_VARIABLE: str(link)})
    await fill(secrets)
    before = given.read_text()
    state = await secrets.rotate_key()
    assert state.place == str(given) and given.read_text() != before and link.is_symlink()
    assert values(open_in(tmp_path / "state", **{FILE_VARIABLE: str(link)})) == VALUES
    assert os.listdir(given.parent) == ["given.key"] and not (tmp_path / "state" / "master.key").exists()


async def test_one_that_only_the_environment_holds_is_not_changed(tmp_path: Path) -> None:
    secrets = open_in(tmp_path, **{VARIABLE: "0f" * 32})
    await fill(secrets)
    before = bytes_in(tmp_path)
    with pytest.raises(Conflict, match=f"restart the daemon with {FILE_VARIABLE}") as caught:
        await secrets.rotate_key()
    assert caught.value.code == "master_key_given" and "0f0f" not in caught.value.message
    assert bytes_in(tmp_path) == before and values(secrets) == VALUES
    assert (await secrets.get_key()).place == VARIABLE


async def test_a_secret_that_cannot_be_read_stands_in_the_way_and_nothing_is_changed(tmp_path: Path) -> None:
    secrets = open_in(tmp_path)
    await fill(secrets)
    document(tmp_path, "b").write_bytes(b"rubbish\n")
    before = bytes_in(tmp_path)
    with pytest.raises(Corrupt, match=r"b\.json"):
        await secrets.rotate_key()
    assert bytes_in(tmp_path) == before
    await secrets.delete_secret("b")
    await secrets.rotate_key()
    assert values(open_in(tmp_path)) == {"a": "value-a", "c": "value-c"}


async def test_a_lost_key_is_said_and_not_made_anew(tmp_path: Path) -> None:
    await fill(open_in(tmp_path))
    (tmp_path / "master.key").unlink()
    secrets = open_in(tmp_path)
    assert "it is not in" in (await secrets.get_key()).problem
    with pytest.raises(Conflict, match="restore it"):
        await secrets.rotate_key()
    assert not (tmp_path / "master.key").exists()


async def test_a_full_disk_loses_nothing_and_the_next_one_ends_it(
    tmp_path: Path,
    disk: FailingDisk,  # noqa: F811
) -> None:
    secrets = open_in(tmp_path)
    await fill(secrets)
    disk.fail_writes_after = 3
    with pytest.raises(StoreError) as caught:
        await secrets.rotate_key()
    assert caught.value.code == "disk_failed" and values(secrets) == VALUES
    disk.fail_writes_after = None
    await secrets.rotate_key()
    assert values(secrets) == VALUES and len(keys_of(tmp_path)) == 1


async def test_who_reads_while_it_goes_on_always_gets_the_value(tmp_path: Path) -> None:
    secrets = open_in(tmp_path)
    await fill(secrets)
    is_over = asyncio.Event()

    async def read() -> int:
        times = 0
        while not is_over.is_set():
            for name, value in VALUES.items():
                assert await secrets.reveal(name) == value
                times += 1
        return times

    readers = [asyncio.create_task(read()) for _ in range(4)]
    seen = {(await secrets.rotate_key()).key_id for _ in range(15)}
    is_over.set()
    assert len(seen) == 15 and min(await asyncio.gather(*readers)) > 0


async def test_after_a_crash_anywhere_every_secret_is_read_and_set_and_the_start_ends_it(tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    scene.mkdir()
    secrets = open_in(scene)
    await fill(secrets)
    before = keys_of(scene)
    with contextlib.ExitStack() as held, Recorder(scene) as recorder:
        for path in scene.rglob("*.*"):
            held.enter_context(path.open())  # so that no new file has the inode of one that is replaced
        await secrets.rotate_key()
        recorder.mark("acknowledged", 1)
    after = keys_of(scene)
    mixed, ends = 0, set()
    for number, state in enumerate(crash_states(recorder.recording(), 600, seed=1)):
        place = tmp_path / str(number)
        place.mkdir()
        state.build(place)
        mixed += len(keys_of(place)) == 2
        untouched = Secrets.__new__(Secrets)  # what a daemon that does not go on with it would read
        untouched._directory, untouched._clock = place / "secrets", Clock()
        untouched._master_key = MasterKey(place / "master.key", {}, in_keyring=False)
        assert values(untouched) == VALUES, state.at
        opened = open_in(place)
        assert values(opened) == VALUES and len(keys_of(place)) == 1, state.at
        assert not (place / "master.key.next").exists(), "the start goes on with it"
        if state.marks.get("acknowledged"):
            assert keys_of(place) == after
        ends |= keys_of(place)
        assert opened._set("a", "anew").version == 2 and opened._reveal("a") == "anew"
    assert mixed > 2 and before | after <= ends


@pytest.mark.parametrize("sealed", range(4))
async def test_cut_off_after_so_many_secrets_each_is_read_set_and_deleted_without_ending_it(
    tmp_path: Path, sealed: int
) -> None:
    """With a keyring nothing is gone on with until somebody changes the key again."""
    secrets = open_in(tmp_path)
    await fill(secrets)
    secrets._master_key.make_next()
    following = secrets._master_key.read_next()
    assert following is not None
    for name in list(VALUES)[:sealed]:
        await secrets.set_secret(name, VALUES[name])
    assert values(secrets) == VALUES
    assert (await secrets.get_key()).is_changing
    assert {id_of(following)} & keys_of(tmp_path) == ({id_of(following)} if sealed else set())
    await secrets.set_secret("new", "value-new")
    await secrets.delete_secret("new")
    state = await secrets.rotate_key()
    assert not state.is_changing and keys_of(tmp_path) == {state.key_id} and values(secrets) == VALUES


IN_KEYRING = """\
import json, sys
from pathlib import Path
from kheish.runtime.supervisor import SystemClock
from kheish.secrets.master_key import MasterKey
from kheish.secrets.service import Secrets

folder = Path(sys.argv[1])
secrets = Secrets(folder / "secrets", MasterKey(folder / "key", {}, in_keyring=True), SystemClock())
match sys.argv[2]:
    case "fill":
        secrets._set("a", "value-a")
    case "begin":
        secrets._master_key.make_next()
        secrets._set("b", "value-b")
    case "rotate":
        secrets._rotate()
state = secrets._describe_key()
print(json.dumps([state.place, state.key_id, state.is_changing, [secrets._reveal(name) for name in secrets._names()]]))
"""


def test_in_a_keyring_it_is_changed_and_gone_on_with_too(tmp_path: Path) -> None:
    def run(how: str) -> list[object]:
        env = {**os.environ, "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path),
               "PYTHON_KEYRING_BACKEND": "keyrings.alt.file.PlaintextKeyring"}  # fmt: skip
        command = [sys.executable, "-c", IN_KEYRING, str(tmp_path), how]
        done = subprocess.run(command, env=env, cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found: list[object] = json.loads(done.stdout)
        return found

    place, first, *rest = run("fill")
    assert (place, rest) == ("the keyring", [False, ["value-a"]])
    assert run("begin") == ["the keyring", first, True, ["value-a", "value-b"]]
    _, second, *rest = run("rotate")
    assert second != first and rest == [False, ["value-a", "value-b"]]
    assert run("look") == ["the keyring", second, False, ["value-a", "value-b"]]
    assert not (tmp_path / "key").exists() and not (tmp_path / "key.next").exists()


def test_nothing_of_it_is_shown_in_an_error(tmp_path: Path) -> None:
    (tmp_path / "master.key.next").write_text("not-a-key-canary")
    secrets = open_in(tmp_path)
    with pytest.raises(KheishError) as caught:
        secrets._rotate()
    assert "canary" not in caught.value.message and "must hold 32 bytes" in caught.value.message
