"""What every wire does alike with a transcript: attachments as text, text that can be stored, and tool arguments."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from kheish.core.contracts import ReplyToolCall
from kheish.core.events import Attachment


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
