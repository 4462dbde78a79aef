"""The master key: where it comes from, what passes for one, and that nothing inherits it."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kheish.errors import Conflict, StoreError
from kheish.secrets.master_key import MasterKey
from tests.architecture.modules import REPOSITORY

KEY = bytes(range(224, 256))
HEX = KEY.hex()
BASE64 = base64.b64encode(KEY).decode()
URL_SAFE = base64.urlsafe_b64encode(KEY).decode()
VARIABLE, FILE_VARIABLE = "KHEISH_AUTH_STORE_MASTER_KEY", "KHEISH_AUTH_STORE_MASTER_KEY_FILE"


def key_of(folder: Path, **environ: str) -> bytes:
    return MasterKey(folder / "own.key", environ, in_keyring=False).read(may_make=True)


@pytest.mark.parametrize("text", [HEX, HEX.upper(), BASE64, URL_SAFE, URL_SAFE.rstrip("="), f" {BASE64}\r\n"])
def test_a_key_is_written_in_hex_or_base64(tmp_path: Path, text: str) -> None:
    assert BASE64 != URL_SAFE
    (tmp_path / "given").write_text(text)
    assert key_of(tmp_path, **{VARIABLE: text}) == KEY
    assert key_of(tmp_path, **{FILE_VARIABLE: str(tmp_path / "given")}) == KEY
    assert not (tmp_path / "own.key").exists()


@pytest.mark.parametrize("text", ["pass phrase", HEX[:-1], HEX[:32], BASE64[:-4], f"{HEX}00", "é" * 32, "\0" * 32, "="])
def test_anything_else_is_refused_without_repeating_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "given").write_text(text)
    for place, environ in ((VARIABLE, {VARIABLE: text}), ("given", {FILE_VARIABLE: str(tmp_path / "given")})):
        with pytest.raises(Conflict, match="must hold 32 bytes in base64 or hex") as caught:
            key_of(tmp_path, **environ)
        assert caught.value.code == "master_key_wrong"
        assert place in caught.value.message and (len(text) < 4 or text not in caught.value.message)


def test_two_keys_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="both KHEISH_AUTH_STORE_MASTER_KEY and"):
        key_of(tmp_path, **{VARIABLE: HEX, FILE_VARIABLE: "/nowhere"})


def test_a_named_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(Conflict, match=f"there is no {tmp_path}/absent"):
        key_of(tmp_path, **{FILE_VARIABLE: str(tmp_path / "absent")})
    assert os.listdir(tmp_path) == []


def test_a_named_file_may_be_a_link_as_those_of_orchestrators_are(tmp_path: Path) -> None:
    (tmp_path / "real").write_text(HEX)
    (tmp_path / "link").symlink_to("real")
    assert key_of(tmp_path, **{FILE_VARIABLE: str(tmp_path / "link")}) == KEY


def test_a_pipe_in_the_place_of_a_key_makes_nobody_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="pipe"):
        key_of(tmp_path, **{FILE_VARIABLE: str(tmp_path / "pipe")})


def test_where_none_is_given_one_is_made_once(tmp_path: Path) -> None:
    made = key_of(tmp_path)
    assert len(made) == 32 and key_of(tmp_path, **{VARIABLE: "", FILE_VARIABLE: ""}) == made
    assert (tmp_path / "own.key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "other").mkdir()
    assert key_of(tmp_path / "other") != made


def test_one_that_was_damaged_is_not_made_anew(tmp_path: Path) -> None:
    (tmp_path / "own.key").write_bytes(b"")
    with pytest.raises(Conflict, match=r"own\.key must hold 32 bytes"):
        key_of(tmp_path)
    assert (tmp_path / "own.key").read_bytes() == b""


def test_it_is_taken_out_of_the_environment(tmp_path: Path) -> None:
    environ = {VARIABLE: HEX, FILE_VARIABLE: "", "PATH": "/bin"}
    MasterKey(tmp_path, environ, in_keyring=False)
    assert environ == {"PATH": "/bin"}


IN_KEYRING = """\
import sys
from pathlib import Path
from kheish.errors import KheishError
from kheish.secrets.master_key import MasterKey
try:
    print(MasterKey(Path(sys.argv[1]), {}, in_keyring=True).read(may_make=sys.argv[2] == "make").hex())
except KheishError as error:
    print(error.code, error.message)
"""


def in_keyring(folder: Path, root: str, how: str, backend: str = "keyrings.alt.file.PlaintextKeyring") -> str:
    """A process of its own, with a real keyring that keeps to the folder."""
    env = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "PYTHON_KEYRING_BACKEND": backend}
    command = [sys.executable, "-c", IN_KEYRING, f"{root}/daemon/key", how]
    return subprocess.run(command, env=env, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()


def test_a_keyring_keeps_one_for_each_state_root(tmp_path: Path) -> None:
    assert "master_key_wrong" in in_keyring(tmp_path, "/one", "read")
    made = in_keyring(tmp_path, "/one", "make")
    assert len(bytes.fromhex(made)) == 32
    assert in_keyring(tmp_path, "/one", "read") == made == in_keyring(tmp_path, "/one", "make")
    assert in_keyring(tmp_path, "/two", "make") != made


def test_a_keyring_that_fails_says_so(tmp_path: Path) -> None:
    said = in_keyring(tmp_path, "/one", "make", "keyring.backends.fail.Keyring")
    assert said.startswith("master_key_wrong cannot use the master key: the keyring does not give it: ")


def test_without_the_extra_the_error_names_it(tmp_path: Path) -> None:
    code = f"import sys\nsys.modules['keyring'] = None\n{IN_KEYRING}"
    command = [sys.executable, "-c", code, str(tmp_path / "key"), "make"]
    said = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert "pip install 'kheish[keyring]'" in said
