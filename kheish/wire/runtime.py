"""What an operator sets while the daemon runs, on the wire and, as revisions, on the disk."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from kheish.core.events import Mode, ToolLimits
from kheish.limits import (
    CONTEXT_TOKENS_MIN,
    DOLLARS_MAX,
    SYSTEM_PROMPT_CHARS_MAX,
    TOOL_OUTPUT_SHOWN_BYTES_MAX,
    TOOL_TIMEOUT_CHOSEN_MAX_MS,
)
from kheish.wire.body import Body, View
from kheish.wire.secrets import SECRET_NAME

RouteDriver = Literal[
    "anthropic", "openai", "openai_compatible", "google", "openrouter", "xai", "ollama", "llama_cpp", "scripted",
    "rehearsal",
]  # fmt: skip
"""What a route may speak, and where."""
KeyVariable = Annotated[str, msgspec.Meta(pattern="^([A-Za-z_][A-Za-z0-9_]*)?$")]
SecretRef = Annotated[str, msgspec.Meta(pattern=f"^$|{SECRET_NAME}")]
DebugLevel = Literal["off", "redacted", "full"]
"""How much is kept: nothing; without what looks like a secret and without images; all but credentials."""
ExpectedRevision = Annotated[int, msgspec.Meta(ge=0)] | None
"""A change is refused where the settings have another revision than this one."""


ContextTokens = Annotated[int, msgspec.Meta(ge=CONTEXT_TOKENS_MIN, lt=1 << 53)]
Dollars = Annotated[float, msgspec.Meta(ge=0, le=DOLLARS_MAX)]


class Price(Body, frozen=True):
    """What a million tokens cost, in US dollars; those from the cache as any other where nothing else is said."""

    input_usd: Dollars
    output_usd: Dollars
    cache_read_usd: Dollars | None = None


class RouteFields(View, frozen=True):
    """A route as routes.toml writes it."""

    driver: RouteDriver
    default_model: str = ""
    api_key_env: KeyVariable = ""
    auth_ref: SecretRef = ""
    base_url: str = ""
    multimodal_input: bool | None = None
    price: Price | None = None
    context_tokens: ContextTokens | None = None


class RuntimeSettings(View, frozen=True):
    """`model` is what a run takes where neither it nor its session names one, "" for the default of the routes;
    `permission_mode` that of a new session; `system_prompt` is added to the system text. `routes` win over those of
    routes.toml."""

    model: str = ""
    permission_mode: Mode = "default"
    system_prompt: str = ""
    debug_level: DebugLevel = "off"
    tool_limits: dict[str, ToolLimits] = {}
    routes: dict[str, RouteFields] = {}


class Revision(View, frozen=True):
    """`change` says what made it of the one before, by whom (`by`, `origin`) and when."""

    revision: int
    at_ms: int
    by: str
    origin: str
    change: str
    settings: RuntimeSettings


class RuntimeView(View, frozen=True):
    """The newest revision, 0 where nothing was ever set, and what a run takes that says nothing: `route_id` and
    `model_id`, of a chain its first; `problem` says why it cannot."""

    revision: int
    updated_at_ms: int
    updated_by: str
    settings: RuntimeSettings
    route_id: str
    model_id: str
    problem: str


class SetDefaultModel(Body, frozen=True):
    """A chain, `[route/]model`, or "" for the default of the routes."""

    model: Annotated[str, msgspec.Meta(max_length=400)]
    expected_revision: ExpectedRevision = None


class SetDefaultMode(Body, frozen=True):
    mode: Mode
    expected_revision: ExpectedRevision = None


class SetSystemPrompt(Body, frozen=True):
    """An empty one takes away what was added."""

    system_prompt: Annotated[str, msgspec.Meta(max_length=SYSTEM_PROMPT_CHARS_MAX)]
    expected_revision: ExpectedRevision = None


class SetDebugLevel(Body, frozen=True):
    level: DebugLevel
    expected_revision: ExpectedRevision = None


class SetToolLimits(Body, frozen=True):
    """0 is the tool's own bound; null, or left out, stays."""

    tool: str
    timeout_ms: Annotated[int, msgspec.Meta(ge=0, le=TOOL_TIMEOUT_CHOSEN_MAX_MS)] | None = None
    output_bytes: Annotated[int, msgspec.Meta(ge=0, le=TOOL_OUTPUT_SHOWN_BYTES_MAX)] | None = None
    expected_revision: ExpectedRevision = None


class RollBack(Body, frozen=True):
    """To the settings of an earlier revision, as a new one."""

    target_revision: Annotated[int, msgspec.Meta(ge=0)]
    expected_revision: ExpectedRevision = None
