"""The seal on every line that the store writes: a JSON object on one line whose last field is a checksum.

`sum` is BLAKE2b-64 in hex over the line's bytes as they would be without it, closing brace included. It is checked on
bytes before anything is parsed, as etcd and Kafka check their records.
"""

from __future__ import annotations

from hashlib import blake2b

ZERO_CHAIN = "0" * 16
SUM_FIELD = b',"sum":"'
SEAL_BYTES = len(SUM_FIELD) + 16 + len(b'"}\n')


def seal(body: bytes) -> tuple[bytes, str]:
    """A JSON object without newline -> its line with `sum` and newline, and the sum."""
    digest = blake2b(body, digest_size=8).hexdigest()
    return b'%b,"sum":"%b"}\n' % (body[:-1], digest.encode()), digest


def check_seal(line: bytes | memoryview) -> str | None:
    """The sum of a whole sealed line, newline included, or None where the line is not one."""
    end = bytes(line[-SEAL_BYTES:])
    if end[:8] != SUM_FIELD or end[-3:] != b'"}\n':
        return None
    hasher = blake2b(line[:-SEAL_BYTES], digest_size=8)
    hasher.update(b"}")
    digest = hasher.hexdigest()
    return digest if digest.encode() == end[8:24] else None
