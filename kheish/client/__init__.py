"""The daemon's API as methods, in sync and async form; starts the daemon where there is none.

    from kheish.client import Kheish
    session = Kheish().sessions.create("name")

May import the foundations and wire; the standard library does the rest, so that a quick command stays quick.
"""

from __future__ import annotations

from kheish.client.client import AsyncKheish, Kheish
from kheish.client.errors import ApiError, DaemonUnreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kheish.client.views import (
        AnswerBody,
        AnyEvent,
        ApprovalKind,
        ApprovalView,
        Attachment,
        Attempt,
        AuthorView,
        Behavior,
        CapabilitiesView,
        ChainView,
        Choice,
        ContextView,
        Cooling,
        Delivery,
        DeltaView,
        Effect,
        EndView,
        HealthView,
        HeartbeatView,
        Hop,
        InboxCounts,
        InboxView,
        InputAttachment,
        InterruptView,
        LimitsView,
        MatrixRow,
        MessageView,
        Mode,
        OptionView,
        PermissionAudit,
        PermissionView,
        Purpose,
        QuestionItem,
        QuestionView,
        RecordPage,
        RecordView,
        Remember,
        RequestSummary,
        Resolution,
        ResolveOneOfMany,
        RouteView,
        RuleScope,
        RuleView,
        RunCounts,
        RunError,
        RunStatus,
        RunView,
        SecretView,
        SessionCounts,
        SessionPage,
        SessionStatus,
        SessionView,
        StatusView,
        StreamErrorView,
        StreamEvent,
        SyncView,
        ToolKind,
        ToolView,
        TranscriptView,
        Usage,
        UsageReport,
        UsageRow,
        UsageView,
        WarningView,
        WhyView,
    )

__all__ = [
    "AnswerBody",
    "AnyEvent",
    "ApiError",
    "ApprovalKind",
    "ApprovalView",
    "AsyncKheish",
    "Attachment",
    "Attempt",
    "AuthorView",
    "Behavior",
    "CapabilitiesView",
    "ChainView",
    "Choice",
    "ContextView",
    "Cooling",
    "DaemonUnreachable",
    "Delivery",
    "DeltaView",
    "Effect",
    "EndView",
    "HealthView",
    "HeartbeatView",
    "Hop",
    "InboxCounts",
    "InboxView",
    "InputAttachment",
    "InterruptView",
    "Kheish",
    "LimitsView",
    "MatrixRow",
    "MessageView",
    "Mode",
    "OptionView",
    "PermissionAudit",
    "PermissionView",
    "Purpose",
    "QuestionItem",
    "QuestionView",
    "RecordPage",
    "RecordView",
    "Remember",
    "RequestSummary",
    "Resolution",
    "ResolveOneOfMany",
    "RouteView",
    "RuleScope",
    "RuleView",
    "RunCounts",
    "RunError",
    "RunStatus",
    "RunView",
    "SecretView",
    "SessionCounts",
    "SessionPage",
    "SessionStatus",
    "SessionView",
    "StatusView",
    "StreamErrorView",
    "StreamEvent",
    "SyncView",
    "ToolKind",
    "ToolView",
    "TranscriptView",
    "Usage",
    "UsageReport",
    "UsageRow",
    "UsageView",
    "WarningView",
    "WhyView",
]


def __getattr__(name: str) -> object:
    """The types, which a program that is not checked for them does not load."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "StreamEvent":
        from kheish.client.follow import Frame

        return Frame
    from kheish.client import views

    return getattr(views, name)
