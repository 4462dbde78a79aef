"""What a debug artifact may not say: the values of secrets, at every level, and, where it is `redacted`, whatever has
the shape of a secret, and images. Pure; a secret's value is looked for and never shown."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import orjson

from kheish.limits import DEBUG_PLAIN_BASE64_CHARS_MAX, DEBUG_PLAIN_SECRET_CHARS_MAX

MASK = "[redacted]"

_SECRET_NAME = re.compile(r"auth|api-?key|cookie|secret|credential|password|signature|(?:^|[-_])(?:key|token)$", re.I)
"""Headers and parameters that hold a secret, by name; a rate limit's `...-tokens-remaining` is none."""

_NO_WORD = r"(?<![A-Za-z0-9])"
SHAPES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (beginning, re.compile(pattern, re.DOTALL))
    for beginning, pattern in (
        ("PRIVATE KEY-----", r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)"),
        ("sk-", rf"{_NO_WORD}sk-[A-Za-z0-9_-]{{16,}}"),
        ("gh", rf"{_NO_WORD}gh[pousr]_[A-Za-z0-9]{{20,}}"),
        ("github_pat_", rf"{_NO_WORD}github_pat_[A-Za-z0-9_]{{20,}}"),
        ("glpat-", rf"{_NO_WORD}glpat-[A-Za-z0-9_-]{{16,}}"),
        ("xox", rf"{_NO_WORD}xox[a-z]-[A-Za-z0-9-]{{10,}}"),
        ("xai-", rf"{_NO_WORD}xai-[A-Za-z0-9]{{20,}}"),
        ("hf_", rf"{_NO_WORD}hf_[A-Za-z0-9]{{20,}}"),
        ("AKIA", rf"{_NO_WORD}AKIA[A-Z0-9]{{16}}"),
        ("ASIA", rf"{_NO_WORD}ASIA[A-Z0-9]{{16}}"),
        ("AIza", rf"{_NO_WORD}AIza[A-Za-z0-9_-]{{35}}"),
        ("eyJ", rf"{_NO_WORD}eyJ[A-Za-z0-9_-]{{8,}}\.[A-Za-z0-9_-]{{8,}}(?:\.[A-Za-z0-9_-]*)?"),
        ("earer ", r"(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{8,}"),
        ("BEARER ", r"(?<=BEARER )[A-Za-z0-9._~+/=-]{8,}"),
        ("Basic ", r"(?<=Basic )[A-Za-z0-9+/=]{8,}"),
        ("://", r"(?<=://)[^\s/:@\"']{1,256}:[^\s/@\"']{1,256}(?=@)"),
    )
)
"""(what a text must hold for it to be looked for, what is masked)"""

_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
_DATA_URL = re.compile(r"data:[\w.+/-]{1,100};base64,")


class Redactor:
    """`known` are values that must not be said, whatever they look like; those that are too short to tell from any
    other text are not looked for. `has_shapes`: shapes and images go too."""

    def __init__(self, known: Iterable[str], *, has_shapes: bool) -> None:
        forms = {form for value in known for form in _forms(value.strip())}
        self._known = sorted(forms, key=len, reverse=True)
        self._has_shapes = has_shapes

    def text(self, text: str) -> str:
        text = self._without_known(text)
        return mask_shapes(text) if self._has_shapes else text

    def body(self, data: bytes) -> str:
        """A body that is sent; where images are taken out it is written anew, as compact as it was."""
        if self._has_shapes:
            try:
                parsed = orjson.loads(data)
            except ValueError:
                pass
            else:
                return self._without_known(orjson.dumps(_mask_strings(parsed)).decode())
        return self.text(data.decode("utf-8", "replace"))

    def _without_known(self, text: str) -> str:
        for value in self._known:
            text = text.replace(value, MASK)
        return text

    def headers(self, headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Without credentials, at every level."""
        return [(name, MASK if _SECRET_NAME.search(name) else mask_shapes(self.text(value))) for name, value in headers]

    def url(self, url: str) -> str:
        """Without credentials, at every level."""
        parts = urlsplit(url)
        query = [
            (name, MASK if _SECRET_NAME.search(name) else value)
            for name, value in parse_qsl(parts.query, keep_blank_values=True)
        ]
        kept = parts._replace(netloc=parts.netloc.rpartition("@")[2], query=urlencode(query, safe="[]/:"))
        return mask_shapes(self.text(urlunsplit(kept)))


def credentials_in(headers: Iterable[tuple[str, str]]) -> list[str]:
    """The values of a request's headers that are secrets, with and without the scheme before them."""
    values = [value for name, value in headers if _SECRET_NAME.search(name)]
    return [*values, *(value.partition(" ")[2] for value in values)]


def mask_shapes(text: str) -> str:
    for beginning, pattern in SHAPES:
        if beginning in text:
            text = pattern.sub(MASK, text)
    return text


def _forms(value: str) -> set[str]:
    """A value as it may stand in a text: itself, in JSON, in JSON within JSON, in a URL, in base64."""
    if len(value) <= DEBUG_PLAIN_SECRET_CHARS_MAX:
        return set()
    forms = {value, quote(value, safe=""), base64.b64encode(value.encode()).decode().rstrip("=")}
    for escape in (True, False):
        once = json.dumps(value, ensure_ascii=escape)[1:-1]
        forms |= {once, json.dumps(once, ensure_ascii=escape)[1:-1]}
    return forms


def _mask_strings(value: Any) -> Any:
    """String by string: a pattern that is looked for in megabytes at once would hold up all other threads."""
    match value:
        case dict():
            return {mask_shapes(key): _mask_strings(item) for key, item in value.items()}
        case list():
            return [_mask_strings(item) for item in value]
        case str():
            return _image_digest(value) or mask_shapes(value)
        case _:
            return value


def _image_digest(value: str) -> str:
    """What stands for a string that is an image or another long string of base64; "" for any other."""
    if len(value) <= DEBUG_PLAIN_BASE64_CHARS_MAX:
        return ""
    beginning = _DATA_URL.match(value)
    start = beginning.end() if beginning else 0
    encoded = value[start:].encode("utf-8", "replace")
    if encoded.translate(None, _BASE64):
        return ""
    return f"{value[:start]}[{len(encoded)} characters of base64, sha256 {hashlib.sha256(encoded).hexdigest()}]"
