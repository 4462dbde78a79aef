"""What every wire does alike with a transcript: attachments as text, and tool arguments in and out of JSON."""

from __future__ import annotations

import json
from typing import Any

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


def read_tool_call(provider_id: str, tool: str, raw: str) -> ReplyToolCall:
    """A tool call from the text of its arguments; a text that is no JSON object is kept as `malformed`."""
    try:
        arguments: Any = json.loads(raw) if raw.strip() else {}
    except (ValueError, RecursionError):
        arguments = None
    if isinstance(arguments, dict):
        return ReplyToolCall(provider_id=provider_id, tool=tool, arguments=arguments)
    return ReplyToolCall(provider_id=provider_id, tool=tool, arguments={}, malformed=raw)
