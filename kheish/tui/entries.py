"""How the entries of a conversation are drawn. Pure: an entry, a width and a look make lines."""

from __future__ import annotations

from rich.style import Style
from textual.strip import Strip

from kheish.narration import PLAN_TOOL
from kheish.terminal import clean, counted, last_written, one_line
from kheish.tui.blocks import Blocks, parts
from kheish.tui.lines import cut_columns, fill, strip_of, wrap
from kheish.tui.live import Asked, Call, Compacted, Entry, Note, Reply, Said, duration
from kheish.tui.look import Look
from kheish.tui.words import call_detail

INDENT = 2
SAID_LINES_MAX = 40
OUTPUT_LINES_SHOWN = 3
OUTPUT_LINES_MAX = 2_000
PART_CHARS_MIN = 16_000
_BLANK = strip_of()


def drawings_of(entry: Entry) -> list[Drawing]:
    """One; of a long reply several, so that no more of it is drawn than comes into sight."""
    if not isinstance(entry, Reply) or entry.is_open or len(entry.text) <= 2 * PART_CHARS_MIN:
        return [Drawing(entry)]
    texts = parts(entry.text, PART_CHARS_MIN)
    return [Drawing(entry, i, text, is_last=i == len(texts) - 1) for i, text in enumerate(texts)]


def text_of(entry: Entry) -> str:
    """All that was said in it."""
    match entry:
        case Reply():
            return f"{entry.reasoning}\n{entry.text}"
        case Call():
            return f"{entry.arguments.get('command', '')}\n{entry.output}"
        case Said() | Note():
            return entry.text
    return ""


class Drawing:
    """The lines of one entry, or of a part of its text, kept until the entry, the width or the look is another.
    `is_expanded`: with all of what is folded otherwise."""

    def __init__(self, entry: Entry, part: int = 0, text: str = "", *, is_last: bool = True) -> None:
        self.entry = entry
        self.part = part
        self._text = text
        """Of the part, where the entry has several."""
        self._is_last = is_last
        self.is_expanded = False
        self.lines: list[Strip] = []
        self._drawn_as: tuple[object, ...] = ()
        self._blocks: Blocks | None = None
        self._hint: tuple[int, int, int] = (-1, 0, 0)

    def is_drawn(self, width: int, look_id: int, now_s: int) -> bool:
        return self._drawn_as == self._key(width, look_id, now_s)

    def _key(self, width: int, look_id: int, now_s: int) -> tuple[object, ...]:
        ticking = now_s if isinstance(self.entry, Call) and self.entry.phase == "running" else 0
        return self.entry.revision, width, look_id, self.is_expanded, ticking

    def draw(self, width: int, look: Look, look_id: int, now_ms: int) -> list[Strip]:
        key = self._key(width, look_id, now_ms // 1000)
        if self._drawn_as != key:
            self.lines = self._draw(width, look, now_ms)
            self._drawn_as = key
        return self.lines

    def height(self, width: int) -> int:
        """As it is drawn, or a guess."""
        if self._drawn_as and self._drawn_as[:2] == (self.entry.revision, width):
            return len(self.lines)
        revision, of_width, height = self._hint
        if (revision, of_width) != (self.entry.revision, width):
            height = self._guess(width)
            self._hint = self.entry.revision, width, height
        return height

    def _guess(self, width: int) -> int:
        match self.entry:
            case Said(text=text):
                return min(SAID_LINES_MAX, _lines_guess(text, width - 4)) + 1
            case Reply(text=text, reasoning=reasoning):
                reasoning_height = 2 if reasoning and not self.part else 0
                return (_lines_guess(self._text or text, width - 2) + 1 if text else 0) + reasoning_height
            case Call() as call:
                return 2 + min(OUTPUT_LINES_SHOWN, call.output.count("\n") + 1) * bool(call.output)
            case _:
                return 2

    def _draw(self, width: int, look: Look, now_ms: int) -> list[Strip]:
        entry = self.entry
        match entry:
            case Said():
                return _draw_said(entry, width, look, self.is_expanded)
            case Reply():
                return self._draw_reply(entry, width, look)
            case Call():
                return _draw_call(entry, width, look, self.is_expanded, now_ms)
            case Asked():
                return _draw_asked(entry, width, look)
            case Note():
                return _draw_note(entry, width, look)
            case Compacted():
                return _draw_compacted(entry, width, look, self.is_expanded)
        return []

    def _draw_reply(self, reply: Reply, width: int, look: Look) -> list[Strip]:
        lines: list[Strip] = []
        text = self._text or reply.text
        if reply.reasoning.strip() and not self.part:
            lines += _draw_reasoning(reply, width, look, self.is_expanded)
        if text.strip():
            if self._blocks is None:
                self._blocks = Blocks()
            self._blocks.set(text)
            drawn = self._blocks.lines(width - INDENT, look)
            first, rest = strip_of((f"{look.marks.reply} ", look.strong)), strip_of((" " * INDENT, None))
            lines += [Strip.join([rest if i or self.part else first, line]) for i, line in enumerate(drawn)]
            if self._is_last or not text.rpartition("\n")[2].strip():
                lines.append(_BLANK)
        return lines

    def forget(self) -> None:
        """The lines, but not how many there are."""
        if self._drawn_as:
            self._hint = self.entry.revision, int(str(self._drawn_as[1])), len(self.lines)
        self.lines, self._drawn_as, self._blocks = [], (), None


def _lines_guess(text: str, width: int) -> int:
    return text.count("\n") + 1 + len(text) // max(20, width)


def _draw_said(said: Said, width: int, look: Look, is_expanded: bool) -> list[Strip]:
    lines = wrap(said.text.rstrip(), width - 4, is_whole=is_expanded)
    mark = "!" if said.is_shell else look.marks.user
    hidden = 0 if is_expanded else max(0, len(lines) - SAID_LINES_MAX)
    if hidden:
        lines = lines[: SAID_LINES_MAX - 1]
    found = [
        fill(strip_of((f"{' ' if i else mark} ", look.accent), (line, None)), width, look.user)
        for i, line in enumerate(lines)
    ]
    notes = [f"{hidden + 1} more lines"] * bool(hidden)
    notes += [one_line(name, 60) for name in said.attachments]
    if said.how == "steered":
        notes.append("steered into the run")
    if said.origin not in ("tui", "cli"):
        notes.append(f"from {one_line(said.origin, 20)}")
    if notes:
        found.append(fill(strip_of(("  " + cut_columns(" · ".join(notes), width - 3), look.dim)), width, look.user))
    return [*found, _BLANK]


def _draw_reasoning(reply: Reply, width: int, look: Look, is_expanded: bool) -> list[Strip]:
    italic = look.dim + Style(italic=True)
    lines = wrap(reply.reasoning.strip(), width - INDENT)
    if is_expanded:
        head = strip_of((f"{look.marks.thought} thought", italic))
        return [head, *(strip_of((f"  {line}", italic)) for line in lines), _BLANK]
    what = "thinking" if reply.is_open and not reply.text else "thought"
    text = one_line(lines[-1] if reply.is_open and not reply.text else lines[0])
    more = f" ({len(lines)} lines)" if len(lines) > 1 else ""
    line = cut_columns(f"{look.marks.thought} {what}{more}: {text}", width, look.marks.ellipsis)
    return [strip_of((line, italic)), _BLANK]


def call_style(call: Call, look: Look) -> Style:
    match call.phase:
        case "waiting" | "uncertain":
            return look.warning
        case "denied":
            return look.error
        case "running":
            return look.accent
        case "done":
            return look.error if call.is_error else look.success
    return look.dim


def _draw_call(call: Call, width: int, look: Look, is_expanded: bool, now_ms: int) -> list[Strip]:
    mark = look.marks.waiting if call.phase in ("waiting", "uncertain") else look.marks.call
    tool = one_line(call.tool, 40)
    room = width - INDENT - len(tool) - 2
    what = call_detail(call.tool, call.arguments, 0 if is_expanded else 2 * width)
    lines = wrap(what, room) if is_expanded else [cut_columns(what.split("\n")[0], room, look.marks.ellipsis)]
    found = [strip_of((f"{mark} ", call_style(call, look)), (tool, look.strong), (f" {lines[0]}", look.text))]
    found += [strip_of((" " * (INDENT + len(tool) + 1) + line, look.text)) for line in lines[1:]]
    found += [_under(text, style, width, look) for text, style in _summary(call, look, now_ms)]
    diff = call.metadata.get("diff")
    if call.phase == "done" and isinstance(diff, str) and diff:
        found += _draw_diff(diff, width, look, is_expanded)
    elif call.output:
        found += _draw_output(call, width, look, is_expanded)
    return [*found, _BLANK]


def _under(text: str, style: Style, width: int, look: Look) -> Strip:
    return strip_of(("  ", None), (cut_columns(text, width - INDENT, look.marks.ellipsis), style))


def _summary(call: Call, look: Look, now_ms: int) -> list[tuple[str, Style]]:
    """What happened, in words."""
    found: list[tuple[str, Style]] = []
    if call.answer:
        found.append((one_line(call.answer, 200), look.error if call.phase == "denied" else look.dim))
    match call.phase:
        case "waiting":
            why = f"{one_line(call.reason, 200)}: " if (call.request or {}).get("kind") == "uncertain" else ""
            found.append((f"{look.marks.waiting} {why}waits for your decision", look.warning))
        case "running":
            again = f", attempt {call.attempt}" if call.attempt > 1 else ""
            found.append((f"running {duration(max(0, now_ms - call.started_at_ms))}{again}", look.accent))
        case "denied" if not call.answer:
            found.append((f"denied: {one_line(call.reason, 200)}", look.error))
        case "uncertain":
            found.append((one_line(call.reason, 200), look.warning))
        case "done" if call.tool != PLAN_TOOL or call.is_error:
            found.append((outcome(call), look.error if call.is_error else look.dim))
    return found


def outcome(call: Call) -> str:
    """A finished call in a few words: `exit 1 · 12 lines · 0.4s`, `+3 -1`, `12 matches`."""
    known = call.metadata
    words: list[str] = []
    if "exit_code" in known:
        words.append(f"exit {known['exit_code']}" if known["exit_code"] else "ok")
    if known.get("timed_out"):
        words.append("timed out")
    if "added" in known or "removed" in known:
        words.append(f"+{known.get('added', 0)} -{known.get('removed', 0)}")
    elif "bytes" in known:
        words.append(f"{counted(known['bytes'], 'byte')} written")
    for name, noun in (("lines", "line"), ("files", "file"), ("entries", "entry")):
        if name in known:
            words.append(counted(known[name], noun, name))
    if not words and call.is_error:
        words.append("failed")
    if call.tool == "bash" and call.blob:  # the lines that there are here are not all
        words.append(f"{call.output_bytes:,} bytes")
    elif call.tool == "bash":
        count = call.output.rstrip("\n").count("\n") + 1
        words += [counted(count, "line")] * (call.output.strip() not in ("", "[no output]"))
    took = call.finished_at_ms - call.started_at_ms
    if call.started_at_ms and took >= 100:
        words.append(duration(took))
    return " · ".join(words) or "done"


def _draw_output(call: Call, width: int, look: Look, is_expanded: bool) -> list[Strip]:
    style = look.error if call.is_error and call.phase == "done" else look.dim
    text = clean(last_written(call.output)).rstrip("\n")
    if call.phase not in ("running", "done") or text == "[no output]":
        return []
    lines = text.split("\n")
    if is_expanded:
        shown, hidden = lines[:OUTPUT_LINES_MAX], len(lines) - OUTPUT_LINES_MAX
        drawn = [strip_of((f"  {look.marks.bar} ", look.dim), (part, style)) for line in shown
                 for part in wrap(line, width - 4)]  # fmt: skip
        told = [f"{counted(hidden, 'more line')}: `kheish sessions transcript` prints them"] * (hidden > 0)
        if call.blob:
            told.append(f"all {call.output_bytes:,} bytes are in the state root, blobs/{call.blob[:2]}/{call.blob}")
        drawn += [_under(part, look.dim, width, look) for text in told for part in wrap(text, width - INDENT)]
        return drawn
    if call.tool in ("read_file", "list_files", "glob_search", "grep_search", PLAN_TOOL) and not call.is_error:
        return []
    tail = [line for line in lines if line.strip()][-OUTPUT_LINES_SHOWN:]
    return [
        strip_of((f"  {look.marks.bar} ", look.dim),
                 (cut_columns(line.expandtabs(4)[: 4 * width], width - 4, look.marks.ellipsis), style))
        for line in tail
    ]  # fmt: skip


def _draw_diff(diff: str, width: int, look: Look, is_expanded: bool) -> list[Strip]:
    lines = clean(diff).split("\n")[2:]
    shown = lines if is_expanded else [line for line in lines if line[:1] in "+-"][: OUTPUT_LINES_SHOWN + 3]
    found = []
    for line in shown:
        style = {"+": look.added, "-": look.removed}.get(line[:1])
        text = cut_columns(line.expandtabs(4), width - 4, look.marks.ellipsis)
        drawn = strip_of((text, look.dim if style is None else look.text))
        found.append(Strip.join([strip_of(("  ", None)), fill(drawn, width - 4, style) if style else drawn]))
    hidden = sum(line[:1] in "+-" for line in lines) - sum(line[:1] in "+-" for line in shown)
    if hidden > 0:
        found.append(_under(counted(hidden, "more changed line"), look.dim, width, look))
    return found


def _draw_asked(asked: Asked, width: int, look: Look) -> list[Strip]:
    style = look.warning if not asked.answer else look.dim
    found: list[Strip] = []
    answers = dict(asked.answers)
    for question in asked.request["questions"]:
        for i, line in enumerate(wrap(question["question"], width - INDENT)):
            found.append(strip_of((f"{' ' if i else look.marks.waiting} ", style), (line, look.text)))
        if not asked.answer:
            labels = " / ".join(one_line(option["label"], 40) for option in question.get("options", ()))
            if labels:
                found.append(_under(labels, look.dim, width, look))
        elif question["question"] in answers:
            answer = wrap(answers[question["question"]], width - INDENT)
            found += [_under(line, look.success, width, look) for line in answer]
    if not asked.answer:
        found.append(_under("waits for your answer", look.warning, width, look))
    else:
        by = f" by {asked.by}" if asked.by else ""
        found.append(_under(one_line(asked.answer, 200) + by, look.dim, width, look))
    return [*found, _BLANK]


def _draw_compacted(compacted: Compacted, width: int, look: Look, is_expanded: bool) -> list[Strip]:
    found = [
        strip_of((f"{' ' if i else look.marks.note} ", look.warning), (line, look.dim))
        for i, line in enumerate(wrap(compacted.text, width - INDENT))
    ]
    lines = wrap(compacted.summary, width - 4) if compacted.summary else []
    if not is_expanded:
        text = f"{lines[0]} ({counted(len(lines), 'line')})" if lines else ""
        lines = [cut_columns(text, width - 4, look.marks.ellipsis)] if lines else []
    found += [strip_of((f"  {look.marks.bar} ", look.dim), (line, look.dim)) for line in lines[:OUTPUT_LINES_MAX]]
    return [*found, _BLANK]


def _draw_note(note: Note, width: int, look: Look) -> list[Strip]:
    style = {"dim": look.dim, "success": look.success, "warning": look.warning, "error": look.error}[note.tone]
    mark = {"success": look.marks.done, "error": look.marks.failed}.get(note.tone, look.marks.note)
    lines = wrap(note.text, width - INDENT)
    tone = style if note.tone in ("error", "warning") else look.dim
    return [
        *(strip_of((f"{' ' if i else mark} ", style), (line, tone)) for i, line in enumerate(lines[:20])),
        _BLANK,
    ]
