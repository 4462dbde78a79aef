"""What every wire does alike with a transcript: attachments, text that can be stored, and tool arguments."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import orjson

from kheish.core.contracts import ReplyToolCall
from kheish.core.events import Attachment
from kheish.core.prompt import VIEWABLE
from kheish.errors import ProviderError
from kheish.limits import MODEL_REPLY_BYTES_MAX

_BEGINNINGS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"%PDF-", "application/pdf"),
)
_NO_NAME_CHAR = re.compile(r"[^A-Za-z0-9_-]")
_TOOL_NAME_CHARS_MAX = 64


class Media(NamedTuple):
    """An image or a document, as a model is shown it. Encoding megabytes takes long: not on the event loop."""

    name: str
    media_type: str
    data: bytes

    @property
    def is_image(self) -> bool:
        return self.media_type.startswith("image/")

    @property
    def base64(self) -> str:
        return base64.b64encode(self.data).decode()

    @property
    def data_url(self) -> str:
        return f"data:{self.media_type};base64,{self.base64}"


def media_of(attachment: Attachment, blobs: Mapping[str, bytes], taken: frozenset[str] = VIEWABLE) -> Media | None:
    """The attachment as an image or a document of one of the media types that are taken, or None. The bytes win over
    what the sender called them: APIs refuse a PNG that is called a JPEG, and with it the whole conversation."""
    data = blobs.get(attachment.blob)
    if not data:
        return None
    media_type = next((name for beginning, name in _BEGINNINGS if data.startswith(beginning)), attachment.media_type)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        media_type = "image/webp"
    return Media(attachment.name, media_type, data) if media_type in taken else None


def attachment_text(attachment: Attachment) -> str:
    """The attachment for the model. What is no text is named, with the path under which it can be read."""
    if attachment.blob:
        return (
            f"[attachment {attachment.name}: {attachment.media_type}, {attachment.bytes} bytes, "
            f"stored as blob:{attachment.blob}]"
        )
    return f"Attachment {attachment.name} ({attachment.media_type}):\n\n{attachment.text}"


def storable(text: str) -> str:
    """Text as UTF-8 can hold it: JSON may cut a character in two halves, which are joined, or leave one out."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if not _is_utf8(text) else text


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Bound:
    """Ends a reply whose tool calls have no end: some servers know no limit. What a reply says is counted elsewhere."""

    def __init__(self) -> None:
        self._left = MODEL_REPLY_BYTES_MAX

    def take(self, *texts: str | None) -> None:
        """Counts what comes of a call. Raises ProviderError."""
        self._left -= 1 + sum(len(text or "") for text in texts)
        if self._left < 0:
            message = f"the tool calls of the reply have over {MODEL_REPLY_BYTES_MAX} characters"
            raise ProviderError(message, code="invalid_reply")


def tool_name(called: str) -> str:
    """What a model called, as every API takes it back. Models call what there is not, by names that no tool can have:
    those are refused in a request, and with them the whole conversation for good."""
    name = _NO_NAME_CHAR.sub("_", called)
    return (name if re.match(r"[A-Za-z_]", name) else f"_{name}")[:_TOOL_NAME_CHARS_MAX]


def read_tool_call(provider_id: str, tool: str, raw: str) -> ReplyToolCall:
    """A tool call from the text of its arguments; a text that is no JSON object, or one that could not be written
    again (too deep, too large a number), is kept as `malformed`."""
    raw = storable(raw)
    try:
        arguments: Any = msgspec.json.decode(raw) if raw.strip() else {}
        orjson.dumps(arguments)
    except (ValueError, TypeError, RecursionError):
        arguments = None
    if isinstance(arguments, dict):
        return ReplyToolCall(provider_id=provider_id, tool=tool, arguments=arguments)
    return ReplyToolCall(provider_id=provider_id, tool=tool, arguments={}, malformed=raw)
