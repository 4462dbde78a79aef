"""How text looks: the styles and marks that widgets draw with, taken from the theme in force."""

from __future__ import annotations

from typing import NamedTuple

from rich.cells import cell_len
from rich.color import Color as RichColor
from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.filter import LineFilter
from textual.theme import Theme


class Marks(NamedTuple):
    """What stands for a thing in one column, or two in ASCII."""

    user: str
    reply: str
    thought: str
    call: str
    note: str
    done: str
    failed: str
    waiting: str
    running: str
    queued: str
    idle: str
    bar: str
    rule: str
    below: str
    ellipsis: str
    label: str


UNICODE = Marks(
    user="\N{HEAVY RIGHT-POINTING ANGLE QUOTATION MARK ORNAMENT}", reply="●", thought="✻", call="●", note="·",
    done="✓", failed="✗", waiting="◆", running="●", queued="○", idle="·", bar="▌",
    rule="─", below="↓", ellipsis="…", label="⚑",
)  # fmt: skip
ASCII = Marks(
    user=">", reply="*", thought="~", call="*", note="-", done="+", failed="x", waiting="!", running="*", queued="o",
    idle="-", bar="|", rule="-", below="v", ellipsis="~", label="#",
)  # fmt: skip


_DRAWN = str.maketrans(
    {"·": "-", "…": "~", "─": "-", "━": "-", "│": "|", "┃": "|", "╭": "+", "╮": "+", "╰": "+", "╯": "+", "▌": "|",
     "▐": "|", "█": " ", "⏎": "|", "🔎": "? "} | dict.fromkeys("▁▂▃▄▅▆▇▔", " ")
)  # fmt: skip


class AsciiOnly(LineFilter):
    """What widgets draw with, within ASCII and as wide. The letters of others pass, where the terminal has them."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [s if s.text.isascii() else Segment(self._drawn(s.text), s.style, s.control) for s in segments]

    def _drawn(self, text: str) -> str:
        return "".join(
            char if char.encode(self._encoding, "ignore") else "?" * cell_len(char) for char in text.translate(_DRAWN)
        )


class Look(NamedTuple):
    """Styles have a foreground at most, but for `user`, `added` and `removed`; what lies under them is the widget's."""

    text: Style
    dim: Style
    strong: Style
    accent: Style
    success: Style
    warning: Style
    error: Style
    user: Style
    heading: Style
    code: Style
    link: Style
    added: Style
    removed: Style
    code_theme: str
    """A style of pygments."""
    marks: Marks


def look_of(variables: dict[str, str], *, is_dark: bool, ascii_only: bool = False) -> Look:
    """`variables` are those of the theme: `App.theme_variables`."""

    def style(name: str, *, bold: bool = False, underline: bool = False) -> Style:
        return Style(color=rich_color(variables[name]), bold=bold or None, underline=underline or None)

    added, removed = ("#12361f", "#4a1c20") if is_dark else ("#d4f4dc", "#fbdcde")
    return Look(
        text=style("foreground"),
        dim=Style(color="#8a919c" if is_dark else "#5f6670"),
        strong=style("foreground", bold=True),
        accent=style("primary"),
        success=style("success"),
        warning=style("warning"),
        error=style("error"),
        user=Style(color=rich_color(variables["foreground"]), bgcolor=rich_color(variables["panel"])),
        heading=style("primary", bold=True),
        code=style("secondary"),
        link=style("primary", underline=True),
        added=Style(bgcolor=added),
        removed=Style(bgcolor=removed),
        code_theme="github-dark" if is_dark else "default",
        marks=ASCII if ascii_only else UNICODE,
    )


def rich_color(value: str) -> RichColor:
    """A theme's colour, without its alpha, as Rich has it; one of the terminal's own sixteen stays that."""
    return Color.parse(value).rich_color


def _theme(name: str, *, dark: bool, **colors: str) -> Theme:
    return Theme(name=name, dark=dark, **colors)  # type: ignore[arg-type]


THEMES = (
    _theme(
        "kheish-dark", dark=True, primary="#7aa7ff", secondary="#c8b6ff", accent="#7aa7ff", foreground="#d7dce4",
        background="#101318", surface="#161a21", panel="#20262f", success="#7ccf8f", warning="#f0b86e",
        error="#f2777f",
    ),
    _theme(
        "kheish-light", dark=False, primary="#1f57c3", secondary="#6b3fa0", accent="#1f57c3", foreground="#1b1f26",
        background="#fbfbfa", surface="#f3f3f1", panel="#e6e7e4", success="#1c7a3c", warning="#8d5800",
        error="#b3232f",
    ),
    _theme(
        "kheish-contrast", dark=True, primary="#66ccff", secondary="#ffccff", accent="#66ccff", foreground="#ffffff",
        background="#000000", surface="#000000", panel="#262626", success="#66ff66", warning="#ffff00",
        error="#ff8080",
    ),
)  # fmt: skip
"""Dark, light and high contrast. Textual's own are there too."""
