"""Identifiers: `<noun>_<ULID>`, sortable by time of creation, monotone within a process.

Source: the ULID specification (48 bits of unix milliseconds, 80 random bits, Crockford base 32).
"""

from __future__ import annotations

import os
import re
import threading
import time

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_SESSION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_PAIRS = tuple(high + low for high in _ALPHABET for low in _ALPHABET)
_TIME_DIGITS = 10
_RANDOM_BITS, _RANDOM_BYTES, _HALF_BITS, _LOW_BITS = 80, 10, 40, 10
_HALF = (1 << _HALF_BITS) - 1
_DRAWN_AT_ONCE = 256


def _digits(value: int) -> str:
    """The eight digits of 40 bits."""
    return _PAIRS[value >> 30] + _PAIRS[value >> 20 & 1023] + _PAIRS[value >> 10 & 1023] + _PAIRS[value & 1023]


class IdSource:
    """Makes ids; two ids of one source compare as they were made, even within a millisecond, and differ before their
    last two digits, which a decision counts on for the ids of its own (`core.draft`)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0
        self._drawn: list[bytes] = []
        self._head, self._head_digits = 0, ""
        """All but the last 40 bits of the last id: they seldom change from one to the next."""

    def new(self, noun: str) -> str:
        return f"{noun}_{self.ulid()}"

    def ulid(self) -> str:
        """An id without its noun."""
        now = time.time_ns() // 1_000_000
        with self._lock:
            if now > self._last >> _RANDOM_BITS:
                if not self._drawn:  # for many at once: each draw hands the interpreter to another thread
                    random = os.urandom(_RANDOM_BYTES * _DRAWN_AT_ONCE)
                    self._drawn = [random[at : at + _RANDOM_BYTES] for at in range(0, len(random), _RANDOM_BYTES)]
                value = now << _RANDOM_BITS | int.from_bytes(self._drawn.pop(), "big")
            else:
                value = (self._last >> _LOW_BITS) + 1 << _LOW_BITS
            self._last = value
            if (head := value >> _HALF_BITS) != self._head:
                self._head = head
                self._head_digits = _PAIRS[head >> 80] + _digits(head >> _HALF_BITS & _HALF) + _digits(head & _HALF)
            return self._head_digits + _digits(value & _HALF)


_source = IdSource()
new_id, new_ulid = _source.new, _source.ulid


def time_of(id_: str) -> int | None:
    """The unix milliseconds at which an id was made; None for what is no whole id."""
    return time_in(id_) if len(id_.rpartition("_")[2]) == 26 else None


def time_in(prefix: str) -> int | None:
    """The same of the beginning of an id; None where it does not hold all of the time."""
    ulid = prefix.rpartition("_")[2]
    if not _TIME_DIGITS <= len(ulid) <= 26 or not set(ulid) <= set(_ALPHABET):
        return None
    value = 0
    for digit in ulid[:_TIME_DIGITS]:
        value = value << 5 | _ALPHABET.index(digit)
    return value


def is_session_name(name: str) -> bool:
    """Whether a caller may choose this session id: 1-128 of letters, digits, `.`, `_`, `-`, not starting with
    a punctuation mark, so that it is a safe directory name everywhere."""
    return _SESSION_NAME.match(name) is not None
