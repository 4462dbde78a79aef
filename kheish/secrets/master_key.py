"""The master key, which seals all secrets: 32 bytes, in base64 or hex where they are written down.

It comes from `KHEISH_AUTH_STORE_MASTER_KEY`, else from the file that `KHEISH_AUTH_STORE_MASTER_KEY_FILE` names, else,
where config.toml says so, from the system's keyring, else from a file in the state root. The last two are made on first
use. While it is changed for another the following one lies beside it, so that at every instant there is a key for
whatever is sealed.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import os
import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from kheish.errors import Conflict, StoreError
from kheish.store.atomic import read_file, replace_file, sync_dir

VARIABLE = "KHEISH_AUTH_STORE_MASTER_KEY"
FILE_VARIABLE = f"{VARIABLE}_FILE"
KEY_BYTES = 32
_SERVICE = "kheish"
_NEXT = ".next"


class MasterKey:
    """It is read whenever it is needed, so that a file or keyring may be put right under a running daemon."""

    def __init__(self, path: Path, environ: MutableMapping[str, str], *, in_keyring: bool) -> None:
        """Takes the variables out of the environment: what the daemon starts neither inherits nor finds them."""
        _wipe(VARIABLE)
        self._given = environ.pop(VARIABLE, "")
        self._given_file = environ.pop(FILE_VARIABLE, "")
        self._in_keyring = in_keyring
        self._path = path

    def read(self, *, may_make: bool) -> bytes:
        """Raises Conflict where there is none that can be used, StoreError where the disk does not let us read it."""
        if self._given and self._given_file:
            raise _unusable(f"both {VARIABLE} and {FILE_VARIABLE} are set where the daemon was started")
        if self._given:
            return _parse(self._given, VARIABLE)
        text = self._read_own()
        if text is None:
            if self._given_file:
                raise _unusable(f"there is no {self._file}, which {FILE_VARIABLE} names")
            if not may_make:
                raise _unusable(
                    f"it is not in {self.place} any more, and secrets were sealed with it; restore it, or delete them "
                    "with `kheish secrets delete NAME --force`"
                )
            text = make_key()
            self._write_own(text)
        return _parse(text, self.place)

    def read_next(self) -> bytes | None:
        """The one that is to follow, where a change was cut off or is under way."""
        if self._given:
            return None
        text = self._read_own(_NEXT)
        return None if text is None else _parse(text, f"what follows {self.place}")

    def make_next(self) -> None:
        """Makes the one that is to follow, durable. Raises Conflict where it cannot be changed from here."""
        if self._given:
            raise Conflict(
                f"cannot change the master key: it is in {VARIABLE}, which only whoever starts the daemon can change; "
                f"put it into a file, restart the daemon with {FILE_VARIABLE} instead, and try again",
                code="master_key_given",
            )
        self._write_own(make_key(), _NEXT)

    def take_next(self) -> None:
        """The following one takes the place of the present one."""
        text = self._read_own(_NEXT)
        assert text is not None
        self._write_own(text.strip())
        self._delete_own(_NEXT)

    @property
    def exists(self) -> bool:
        """Raises KheishError."""
        return bool(self._given or self._given_file) or self._read_own() is not None

    @property
    def has_next_file(self) -> bool:
        """Whether a change was cut off, as far as the disk tells; a keyring may ask the person, and is not asked."""
        return not (self._given or self._uses_keyring) and self._beside(_NEXT).exists()

    @property
    def place(self) -> str:
        return VARIABLE if self._given else "the keyring" if self._uses_keyring else str(self._file)

    @property
    def _uses_keyring(self) -> bool:
        return self._in_keyring and not self._given_file

    @property
    def _file(self) -> Path:
        return Path(os.path.realpath(os.path.expanduser(self._given_file))) if self._given_file else self._path

    def _beside(self, which: str) -> Path:
        return self._file.with_name(self._file.name + which)

    def _read_own(self, which: str = "") -> str | None:
        if not self._uses_keyring:
            return _read(self._beside(which))
        keyring = _load_keyring()
        try:
            found: str | None = keyring.get_password(_SERVICE, f"{self._path.parent}{which}")
        except keyring.errors.KeyringError as error:
            raise _unusable(f"the keyring does not give it: {error}") from error
        return found

    def _write_own(self, text: str, which: str = "") -> None:
        if self._uses_keyring:
            keyring = _load_keyring()
            try:
                keyring.set_password(_SERVICE, f"{self._path.parent}{which}", text)
            except keyring.errors.KeyringError as error:
                raise _unusable(f"the keyring does not take it: {error}") from error
            return
        try:
            replace_file(self._beside(which), f"{text}\n".encode())
        except OSError as error:
            raise StoreError.of_disk(f"make the master key {self._beside(which)}", error) from error

    def _delete_own(self, which: str) -> None:
        """One that stays says the same as the present one, and is found again at the next change."""
        if self._uses_keyring:
            keyring = _load_keyring()
            with contextlib.suppress(keyring.errors.KeyringError):
                keyring.delete_password(_SERVICE, f"{self._path.parent}{which}")
            return
        with contextlib.suppress(OSError):
            os.unlink(self._beside(which))
            sync_dir(self._file.parent)


def _wipe(variable: str) -> None:
    """Overwrites it in the memory from which the system shows a process's first environment to root."""
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    if place := libc.getenv(variable.encode()):
        ctypes.memset(place, ord("-"), len(ctypes.string_at(place)))


def make_key() -> str:
    return base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode()


def _parse(text: str, place: str) -> bytes:
    text = text.strip()
    try:
        if re.fullmatch(r"[0-9A-Fa-f]{64}", text):
            return bytes.fromhex(text)
        standard = text.rstrip("=").replace("-", "+").replace("_", "/")
        key = base64.b64decode(f"{standard}{'=' * (-len(standard) % 4)}", validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise _unusable(
            f"{place} must hold {KEY_BYTES} bytes in base64 or hex, as `kheish secrets generate` prints them"
        )
    return key


def _read(path: Path) -> str | None:
    """None where there is no such file. Raises StoreError."""
    try:
        return read_file(path).decode("ascii", "replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError.of_disk(f"read the master key {path}", error) from error


def _load_keyring() -> Any:
    try:
        import keyring  # noqa: PLC0415 - an extra
        import keyring.errors  # noqa: PLC0415
    except ImportError as error:
        raise _unusable("config.toml wants the keyring: `pip install 'kheish[keyring]'`") from error
    return keyring


def _unusable(reason: str) -> Conflict:
    return Conflict(f"cannot use the master key: {reason}", code="master_key_wrong")
