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


class Secrets:
    """Names have the form of `wire.secrets.SECRET_NAME`."""

    def __init__(self, directory: Path, master_key: MasterKey, clock: Clock) -> None:
        self._directory = directory
        self._master_key = master_key
        self._clock = clock
        self._changing = threading.Lock()
        with contextlib.suppress(OSError):  # said when it is used
            clear_temps(directory)

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
            self._check_key(others, master_key)
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

    def _check_key(self, names: list[str], master_key: bytes) -> None:
        """One master key for all: a secret that is set under a wrong one would be lost with the next start."""
        sealed_otherwise = []
        for name in names:
            with contextlib.suppress(KheishError):
                if self._read(name).key_id != id_of(master_key):
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

    def _reveal(self, name: str) -> str:
        return unseal(self._read(name), name, self._master_key.read(may_make=False))

    def _describe(self, name: str) -> Secret:
        try:
            sealed = self._read(name)
        except StoreError as error:
            return Secret(name=name, problem=error.message)
        try:
            unseal(sealed, name, self._master_key.read(may_make=False))
        except KheishError as error:
            return _shown(name, sealed, error.message)
        return _shown(name, sealed)

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
