"""The one face of the room: sets, lists, deletes and reveals secrets. Nothing of them is kept in memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
from pathlib import Path

import msgspec

from kheish.errors import Conflict, Corrupt, KheishError, NotFound, StoreError
from kheish.runtime.ports import Clock
from kheish.secrets.documents import Sealed, id_of, seal, unseal
from kheish.secrets.master_key import MasterKey
from kheish.store.atomic import clear_temps, make_private_dir, sync_dir
from kheish.store.documents import read_document, write_document
from kheish.wire.secrets import SECRET_NAME


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """What may be told of a secret. `problem` says why it cannot be used; where its document cannot be read at all, the
    rest is 0."""

    name: str
    version: int = 0
    created_at_ms: int = 0
    updated_at_ms: int = 0
    problem: str = ""


class KeyState(msgspec.Struct, frozen=True, kw_only=True):
    """What may be told of the master key. `key_id` is "" where there is none yet; `is_changing`: a change was cut off,
    and nothing is lost; `problem` says why it cannot be used."""

    place: str
    key_id: str = ""
    is_changing: bool = False
    problem: str = ""


class Secrets:
    """Names have the form of `wire.secrets.SECRET_NAME`."""

    def __init__(self, directory: Path, master_key: MasterKey, clock: Clock) -> None:
        self._directory = directory
        self._master_key = master_key
        self._clock = clock
        self._changing = threading.Lock()
        with contextlib.suppress(OSError, KheishError):  # said when it is used
            clear_temps(directory)
            if master_key.has_next_file:
                self._seal_anew()

    async def list_secrets(self) -> list[Secret]:
        """By name."""
        return await asyncio.to_thread(lambda: [self._describe(name) for name in self._names()])

    async def get_secret(self, name: str) -> Secret:
        """Raises NotFound."""
        return await asyncio.to_thread(self._describe, name)

    async def set_secret(self, name: str, value: str) -> Secret:
        """Durable on return. Raises Conflict where the master key is not the one that sealed the others."""
        return await asyncio.to_thread(self._set, name, value)

    async def delete_secret(self, name: str) -> Secret:
        """The secret that was. Raises NotFound."""
        return await asyncio.to_thread(self._delete, name)

    async def rotate_key(self) -> KeyState:
        """Makes another master key and seals everything anew with it. Durable on return; where it is cut off, each
        secret is readable at every instant, and the next rotation or start goes on. Raises KheishError."""
        return await asyncio.to_thread(self._rotate)

    async def get_key(self) -> KeyState:
        return await asyncio.to_thread(self._describe_key)

    async def reveal(self, name: str) -> str:
        """The value as it is now. Raises KheishError."""
        return await asyncio.to_thread(self._reveal, name)

    def values(self) -> list[str]:
        """Of all secrets that can be read, to see that they are told nowhere; blocks."""
        found = []
        for name in self._names():
            with contextlib.suppress(KheishError):
                found.append(self._reveal(name))
        return found

    def _set(self, name: str, value: str) -> Secret:
        with self._changing:
            try:
                before: Sealed | None = self._read(name)
            except (NotFound, Corrupt):
                before = None
            others = [other for other in self._names() if other != name]
            master_key = self._master_key.read(may_make=not others)
            following = self._master_key.read_next()
            self._check_key(others, {id_of(key) for key in (master_key, following) if key})
            master_key = following or master_key
            now_ms = self._clock.now_ms()
            head = Sealed(
                version=before.version + 1 if before else 1,
                created_at_ms=before.created_at_ms if before else now_ms,
                updated_at_ms=now_ms,
                key_id=id_of(master_key),
            )
            try:
                make_private_dir(self._directory)
                write_document(self._path(name), seal(head, name, value, master_key))
            except OSError as error:
                raise StoreError.of_disk(f"keep the secret {name}", error) from error
        return _shown(name, head)

    def _check_key(self, names: list[str], key_ids: set[str]) -> None:
        """One master key for all: a secret that is set under a wrong one would be lost with the next start."""
        sealed_otherwise = []
        for name in names:
            with contextlib.suppress(KheishError):
                if self._read(name).key_id not in key_ids:
                    sealed_otherwise.append(name)
        if sealed_otherwise:
            raise Conflict(
                f"cannot use the master key: another one sealed {', '.join(sealed_otherwise)}; start the daemon with "
                "that, or delete them with `kheish secrets delete NAME --force`",
                code="master_key_wrong",
            )

    def _delete(self, name: str) -> Secret:
        with self._changing:
            found = self._describe(name)
            try:
                os.unlink(self._path(name))
                sync_dir(self._directory)
            except OSError as error:
                raise StoreError.of_disk(f"delete the secret {name}", error) from error
        return found

    def _rotate(self) -> KeyState:
        with self._changing:
            self._seal_anew()
            names = self._names()
            self._master_key.read(may_make=not names)
            for name in names:
                self._unseal(name)  # what cannot be read now would stand in the way of the rest
            self._master_key.make_next()
            self._seal_anew()
        return self._describe_key()

    def _seal_anew(self) -> None:
        """With the master key that is to follow, if there is one, which then takes its place."""
        master_key = self._master_key.read_next()
        if master_key is None:
            return
        for name in self._names():
            sealed, value = self._unseal(name)
            if sealed.key_id == id_of(master_key):
                continue
            head = msgspec.structs.replace(sealed, key_id=id_of(master_key))
            try:
                write_document(self._path(name), seal(head, name, value, master_key))
            except OSError as error:
                raise StoreError.of_disk(f"seal the secret {name} anew", error) from error
        self._master_key.take_next()

    def _describe_key(self) -> KeyState:
        place = self._master_key.place
        try:
            following = self._master_key.read_next()
            if not self._names() and not self._master_key.exists:
                return KeyState(place=place)
            key_id = id_of(self._master_key.read(may_make=False))
        except KheishError as error:
            return KeyState(place=place, problem=error.message)
        return KeyState(place=place, key_id=key_id, is_changing=following is not None)

    def _reveal(self, name: str) -> str:
        return self._unseal(name)[1]

    def _unseal(self, name: str) -> tuple[Sealed, str]:
        """The document and its value. Between reading it and the key that key may change; the second look is right."""
        try:
            return self._unseal_once(name)
        except Conflict:
            return self._unseal_once(name)

    def _unseal_once(self, name: str) -> tuple[Sealed, str]:
        sealed = self._read(name)
        master_key = self._master_key.read(may_make=False)
        if sealed.key_id != id_of(master_key):
            master_key = self._master_key.read_next() or master_key
        return sealed, unseal(sealed, name, master_key)

    def _describe(self, name: str) -> Secret:
        try:
            sealed = self._read(name)
        except StoreError as error:
            return Secret(name=name, problem=error.message)
        try:
            return _shown(name, self._unseal(name)[0])
        except KheishError as error:
            return _shown(name, sealed, error.message)

    def _read(self, name: str) -> Sealed:
        """Raises NotFound, StoreError."""
        try:
            return read_document(self._path(name), Sealed)
        except FileNotFoundError:
            raise NotFound(
                f"cannot find the secret {name}: `kheish secrets set {name}` makes it", code="secret_not_found"
            ) from None
        except OSError as error:
            raise StoreError.of_disk(f"read the secret {name}", error) from error

    def _names(self) -> list[str]:
        try:
            files = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError.of_disk("list the secrets", error) from error
        names = (file.removesuffix(".json") for file in files if file.endswith(".json"))
        return sorted(name for name in names if re.fullmatch(SECRET_NAME.removesuffix("$"), name))

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.json"


def _shown(name: str, sealed: Sealed, problem: str = "") -> Secret:
    return Secret(
        name=name,
        version=sealed.version,
        created_at_ms=sealed.created_at_ms,
        updated_at_ms=sealed.updated_at_ms,
        problem=problem,
    )
