"""What is stored: a document for each secret, `daemon/secrets/<name>.json`, and AES-256-GCM over its value.

The tag covers the name and all that the document says of the value: no document passes for another's, and none can be
changed by whoever does not have the master key. An older version of the same secret, put back as a whole, is a backup.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from kheish.errors import Conflict, Corrupt

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """`key_id` tells master keys apart and nothing about them."""

    version: int
    created_at_ms: int
    updated_at_ms: int
    key_id: str
    nonce: bytes = b""
    ciphertext: bytes = b""


def id_of(master_key: bytes) -> str:
    return blake2b(person=b"kheish-key-id", key=master_key, digest_size=8).hexdigest()


def seal(head: Sealed, name: str, value: str, master_key: bytes) -> Sealed:
    """The head with the value, under a nonce that is never used again."""
    nonce = os.urandom(_NONCE_BYTES)
    ciphertext = _cipher(master_key).encrypt(nonce, value.encode(), _associated(head, name))
    return msgspec.structs.replace(head, nonce=nonce, ciphertext=ciphertext)


def unseal(sealed: Sealed, name: str, master_key: bytes) -> str:
    """The value. Raises Conflict where another master key sealed it, Corrupt where it is not what was sealed."""
    if sealed.key_id != id_of(master_key):
        raise Conflict(f"cannot read the secret {name}: another master key sealed it", code="master_key_wrong")
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - takes 30 ms, and most daemons have no secrets

    try:
        return _cipher(master_key).decrypt(sealed.nonce, sealed.ciphertext, _associated(sealed, name)).decode()
    except (InvalidTag, ValueError) as error:
        raise Corrupt(
            f"cannot read the secret {name}: it was changed on the disk; set it anew or restore it from a backup",
            code="secret_tampered",
        ) from error


def _cipher(master_key: bytes) -> AESGCM:
    """The master key itself seals nothing, so that it may serve other ends too."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

    return AESGCM(blake2b(person=b"kheish-secrets", key=master_key, digest_size=32).digest())


def _associated(head: Sealed, name: str) -> bytes:
    return msgspec.json.encode((name, head.version, head.created_at_ms, head.updated_at_ms, head.key_id))
