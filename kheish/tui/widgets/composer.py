"""Where a person writes: to the agent, or with `!` to the shell.

It keeps earlier inputs and the unsent text, completes files and actions, folds long pastes and takes images. What is
written leaves it as one message; everything else is the screen's.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, cast

from rich.segment import Segment
from rich.text import Text
from textual import events, work
from textual._ansi_sequences import ANSI_SEQUENCES_KEYS
from textual.app import SuspendNotSupported
from textual.binding import ActiveBinding, Binding, BindingType
from textual.document._document import EditResult, Location, Selection
from textual.document._edit import Edit
from textual.keys import Keys
from textual.markup import escape
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import TextArea

from kheish.errors import Invalid
from kheish.limits import INPUT_CHARS_MAX, KIB, REQUEST_BODY_BYTES_MAX
from kheish.terminal import clean, one_line
from kheish.tui import files, fuzzy, shell
from kheish.tui.actions import ACTIONS, bindings
from kheish.tui.editor import edit_outside
from kheish.tui.history import History, Written
from kheish.tui.look import UNICODE, Marks
from kheish.tui.screen import KheishScreen
from kheish.tui.vim import Vim
from kheish.tui.widgets.completion import Choice, Completion

if TYPE_CHECKING:
    from kheish.client import InputAttachment

How = Literal["queue", "steer", "shell"]
Pieces = dict[str, "str | InputAttachment"]
"""What the placeholders in a text stand for: a text or an image."""

PASTE_LINES_MAX, PASTE_CHARS_MAX = 10, 1_000
"""A longer paste is shown as a placeholder."""
TWICE_S = 0.8
DRAFT_DELAY_S = 1.0
EMPTIED_S = 2.0
"""For so long after the last letter was deleted the key that goes back asks first."""
CHOICES_MAX = 50
_MENTION_CHARS_MAX = 1_000
_REQUEST_REST_BYTES = 64 * KIB
_ACTION = re.compile(r"/[\w-]*")
_VIM_KEYS = {"backspace": "h", "delete": "x", "space": "l"}

SHARED = ("queue", "steer", "newline", "interrupt", "back", "editor")
"""Actions of the session's screen that the composer performs while it has the focus; the screen says when."""
_OFFERED = {a.id for a in ACTIONS if a.where in ("app", "session", "composer")} - {
    f"session.{name}" for name in ("queue", "newline", "interrupt", "back")
}

# What a terminal without the kitty protocol sends for Alt+Enter. Unknown, it would be taken for Enter.
cast("dict[str, tuple[Keys, ...]]", ANSI_SEQUENCES_KEYS).setdefault("\x1b\r", (Keys.ControlJ,))


class Draft(NamedTuple):
    text: str
    pieces: Pieces

    def expanded(self) -> tuple[str, list[InputAttachment]]:
        """The text with pasted texts in place, and its images."""
        images: list[InputAttachment] = []

        def put(found: re.Match[str]) -> str:
            piece = self.pieces[found[0]]
            if isinstance(piece, str):
                return piece
            images.append(piece)
            return found[0]

        labels = "|".join(map(re.escape, self.pieces))
        return re.sub(labels, put, self.text) if labels else self.text, images


class Token(NamedTuple):
    """What is being completed, where it begins, and what is typed of it."""

    kind: Literal["", "input", "action", "file"]
    place: Location
    query: str

    @property
    def place_of(self) -> tuple[str, Location]:
        return self.kind, self.place


class Composer(TextArea):
    """`history_key` is the session; its inputs and those of the directory `cwd` are what one goes back through."""

    DEFAULT_CSS = """
    Composer {
        height: auto; min-height: 3; max-height: 12; padding: 0 1; background: $background;
        scrollbar-size-vertical: 1;
        border: round $panel; border-title-color: $foreground 60%; border-subtitle-color: $foreground 60%;
        &:focus { border: round $primary 60%; }
        &.-shell, &.-shell:focus { border: round $warning; border-title-color: $warning; }
        &.-ascii, &.-ascii:focus { border: ascii $primary 60%; }
        &.-ascii.-shell { border: ascii $warning; }
        & .composer--mark { color: $primary; }
        &.-shell .composer--mark { color: $warning; }
        & .composer--piece { color: $secondary; }
    }
    """
    COMPONENT_CLASSES = {"composer--mark", "composer--piece"}
    BINDINGS: ClassVar[list[BindingType]] = [
        *(b for b in bindings("session") if isinstance(b, Binding) and b.action in SHARED),
        *bindings("composer"),
        # As in a shell's line; the text area has the others.
        Binding("ctrl+b", "cursor_left", show=False),
        Binding("ctrl+f", "cursor_right", show=False),
        Binding("alt+b", "cursor_word_left", show=False),
        Binding("alt+f", "cursor_word_right", show=False),
    ]

    hint: reactive[str] = reactive("")
    """What the keys do now, said below."""

    class Submitted(Message):
        """`how`: wait for its turn, enter the active run, or be a command. `draft` is what `restore` puts back."""

        def __init__(self, text: str, attachments: list[InputAttachment], how: How, draft: Draft) -> None:
            super().__init__()
            self.text = text
            self.attachments = attachments
            self.how = how
            self.draft = draft

    class Left(Message):
        """The person wants to go back, and has written nothing."""

    class Interrupted(Message):
        """Escape was pressed twice."""

    class Edited(Message):
        """Something else is written now."""

    def __init__(
        self,
        history_key: str = "",
        cwd: str = "",
        *,
        vim: bool = False,
        placeholder: str = "Write to the agent",
        inputs: History | None = None,
        id: str | None = None,
    ) -> None:
        self._pieces: Pieces = {}  # the text area moves its cursor while it is made
        super().__init__(id=id, highlight_cursor_line=False, placeholder=placeholder)
        self.cursor_blink = False
        self.completion = Completion(self._take_clicked)
        self.inputs = inputs or History()
        self._session_id = history_key
        self._cwd = cwd
        self._shell_place = ""
        """Where lines for the shell run; "" is where the session is."""
        self._vim = Vim(self, self._draw_border) if vim else None
        self._unsent = Draft("", {})
        """What was written before one went through earlier inputs, or searched them."""
        self._earlier: list[Written] = []
        self._at = 0
        self._is_searching = False
        self._token = Token("", (0, 0), "")
        self._closed_token: Token | None = None
        self._files: asyncio.Future[list[str]] | None = None
        self._found: Sequence[Written] = ()
        self._offered: dict[str, ActiveBinding] = {}
        self._escaped_at_s = self._emptied_at_s = float("-inf")
        self.again = ""
        """What the key that interrupts does the second time, as it is said after the first."""
        self._saving: Timer | None = None
        self._saving_lock = asyncio.Lock()
        self._was_empty = True

    async def on_mount(self) -> None:
        assert isinstance(self.parent, Widget)
        self.set_class(self._marks is not UNICODE, "-ascii")
        await self.parent.mount(self.completion, before=self)
        self._draw_border()
        self._load()

    @work(group="inputs")
    async def _load(self) -> None:
        await asyncio.to_thread(self.inputs.load)
        draft = await asyncio.to_thread(self.inputs.draft, self._session_id)
        if draft is not None and not self.text:
            self._show(draft.text, dict(draft.pasted))

    def on_unmount(self) -> None:
        self.inputs.keep_draft(self._session_id, self._draft())

    # -- for the screen ------------------------------------------------------------------------------------------

    def set_cwd(self, cwd: str) -> None:
        self._cwd = cwd

    def load(self, text: str) -> None:
        """Puts a text in place of what is written."""
        self._show(text, {})

    def restore(self, message: Submitted) -> None:
        """Gives back what could not be handed in, where nothing else is written yet."""
        if not self.text:
            self._show(*message.draft)

    def look_changed(self) -> None:
        self.set_class(self._marks is not UNICODE, "-ascii")
        self.refresh()

    # -- what is written -----------------------------------------------------------------------------------------

    def _written(self, draft: Draft | None = None) -> Written:
        text, pieces = draft or Draft(self.text, self._pieces)
        pasted = {label: piece for label, piece in pieces.items() if isinstance(piece, str) and label in text}
        return Written(text, pasted, self._session_id, self._cwd)

    def _show(self, text: str, pieces: Pieces) -> None:
        self._pieces = pieces
        self.load_text(clean(text))
        self.move_cursor(self.document.end)
        self._closed_token = self._token_now()

    def _send(self, how: How) -> None:
        draft = Draft(self.text, self._pieces)
        text, attachments = draft.expanded()
        if draft.text.startswith("!"):
            how, text = "shell", text[1:]
        text = text.strip()
        if not text:
            return
        size = len(text.encode()) + sum(len(image["content_base64"] or "") for image in attachments)
        if len(text) > INPUT_CHARS_MAX or size > REQUEST_BODY_BYTES_MAX - _REQUEST_REST_BYTES:
            self._complain("cannot send this: it is too large; put it into a file and name that")
            return
        written = self._written()
        self.inputs.remember(written)
        self._show("", {})
        self._save(written)
        if how == "shell" and (target := shell.target_of(text)) is not None:
            self._go_to(target)
            return
        if how == "shell":
            text = shell.command_at(self._shell_place, text)
        self.post_message(self.Submitted(text, attachments, how, draft))

    @work(group="place")
    async def _go_to(self, target: str) -> None:
        """Where the next lines for the shell run."""
        place = shell.resolve(target, self._shell_place, self._cwd)
        if place and not await asyncio.to_thread(os.path.isdir, place):
            self._complain(f"cannot go to {one_line(target, 60)}: there is no such directory")
            return
        self._shell_place = place
        where = one_line(shell.name_of(place, self._cwd), 60) if place else "the session's directory"
        self.notify(f"! runs in {where} now", markup=False, timeout=3)

    def _draft(self) -> Written:
        return self._written(self._unsent if self._is_searching else None)

    @work(group="inputs")
    async def _save(self, sent: Written | None = None) -> None:
        """Keeps an input, and the draft, or that there is none now."""
        draft = self._draft()
        async with self._saving_lock:  # in their order
            if sent is not None:
                await asyncio.to_thread(self.inputs.write, sent)
            await asyncio.to_thread(self.inputs.keep_draft, self._session_id, draft)

    def _complain(self, message: str) -> None:
        self.notify(message, severity="error", timeout=8, markup=False)

    def on_text_area_changed(self, event: TextArea.Changed) -> None:
        event.stop()
        self.post_message(self.Edited())
        if self._saving is not None:
            self._saving.stop()
        if not self._is_searching:
            self._saving = self.set_timer(DRAFT_DELAY_S, self._save)
        self._draw_border()
        self._complete()
        if self._was_empty != (not self.text):
            self._was_empty = not self.text
            self.refresh_bindings()

    def on_text_area_selection_changed(self, event: TextArea.SelectionChanged) -> None:
        event.stop()
        self._complete()

    # -- pieces: what stands for a long paste or an image ----------------------------------------------------------

    async def _on_paste(self, event: events.Paste) -> None:
        event.prevent_default()
        event.stop()
        self._paste(event.text.replace("\r\n", "\n").replace("\r", "\n"))

    def action_paste(self) -> None:
        self._paste(self.app.clipboard)

    def _paste(self, text: str) -> None:
        if files.may_be_image(text):
            self._paste_image(text)
        else:
            self._paste_text(text)

    def _paste_text(self, text: str) -> None:
        lines = text.count("\n", 0, -1) + 1
        if lines > PASTE_LINES_MAX:
            self._insert_piece(f"pasted {lines} lines", text)
        elif len(text) > PASTE_CHARS_MAX:
            self._insert_piece(f"pasted {len(text)} characters", text)
        else:
            self.replace(clean(text), *self.selection, maintain_selection_offset=False)

    @work(group="images")
    async def _paste_image(self, text: str) -> None:
        path = await asyncio.to_thread(files.image_path, text, self._cwd)
        if not path:
            self._paste_text(text)
            return
        try:
            image = await asyncio.to_thread(files.read_image, path)
        except Invalid as error:
            self._complain(error.message)
            self._paste_text(text)
            return
        name = one_line(image["file_name"], 40).translate({ord("["): "(", ord("]"): ")"})
        self._insert_piece(f"image {name}", image)

    def _insert_piece(self, what: str, piece: str | InputAttachment) -> None:
        number = 1 + max((int(label[label.rindex("#") + 1 : -1]) for label in self._pieces), default=0)
        label = f"[{what} #{number}]"
        self._pieces[label] = piece
        self.replace(label, *self.selection, maintain_selection_offset=False)

    def _places(self, row: int) -> Iterator[tuple[int, int]]:
        """Where pieces stand in a line."""
        line = self.document.get_line(row) if self._pieces else ""
        for label in self._pieces:
            start = line.find(label)
            while start >= 0:
                yield start, start + len(label)
                start = line.find(label, start + len(label))

    def _widened(self, location: Location, *, to_end: bool) -> Location:
        """The edge of the piece that a location is within."""
        row, column = location
        for start, end in self._places(row):
            if start < column < end:
                return row, end if to_end else start
        return location

    def edit(self, edit: Edit) -> EditResult:
        """What touches a piece takes all of it."""
        top, bottom = edit.top, edit.bottom
        if top != bottom:
            edit.from_location = self._widened(top, to_end=False)
            edit.to_location = self._widened(bottom, to_end=True)
        result = super().edit(edit)
        if not self.text:
            self._emptied_at_s = time.monotonic()
        return result

    def validate_selection(self, selection: Selection) -> Selection:
        """The cursor passes over a piece as over one letter."""
        before = self.selection.end
        return Selection(*(self._widened(place, to_end=place > before) for place in selection))

    # -- earlier inputs ------------------------------------------------------------------------------------------

    def action_cursor_up(self, select: bool = False) -> None:
        is_first = self.navigator.is_first_wrapped_line(self.cursor_location)
        if select or not is_first or not self._go(-1):
            super().action_cursor_up(select)

    def action_cursor_down(self, select: bool = False) -> None:
        is_last = self.navigator.is_last_wrapped_line(self.cursor_location)
        if select or not is_last or not self._go(1):
            super().action_cursor_down(select)

    def _go(self, by: int) -> bool:
        """To an earlier input, or a later one and at last what is not sent; whether there is one."""
        is_within = self._at < len(self._earlier) and self._earlier[self._at].text == self.text
        if not is_within:
            self._earlier = self.inputs.earlier(self._session_id, self._cwd)
            self._at = len(self._earlier)
            self._unsent = Draft(self.text, self._pieces)
        if not 0 <= self._at + by <= len(self._earlier):
            return False
        self._at += by
        if self._at == len(self._earlier):
            self._show(*self._unsent)
        else:
            earlier = self._earlier[self._at]
            self._show(earlier.text, dict(earlier.pasted))
        return True

    def action_search(self) -> None:
        """Among all that was ever written here; what stands in the composer is looked for."""
        if self._is_searching:
            self.completion.action_down()
            return
        self._is_searching, self._unsent = True, Draft(self.text, self._pieces)
        self._draw_border()
        self._complete()

    def _end_search(self, found: Written | None = None) -> None:
        self._is_searching = False
        if found is not None:
            self._show(found.text, dict(found.pasted))
        else:
            self._show(*self._unsent)
        self.completion.close()
        self._draw_border()

    # -- completion ----------------------------------------------------------------------------------------------

    def _token_now(self) -> Token:
        """What could be completed at the cursor."""
        row, column = self.cursor_location
        if self._is_searching:
            return Token("input", (0, 0), self.text)
        if not self.selection.is_empty or (self._vim is not None and self._vim.is_normal):
            return Token("", (0, 0), "")
        line = self.document.get_line(row)
        if row == 0 and column == len(line) and self.document.line_count == 1 and _ACTION.fullmatch(line):
            return Token("action", (0, 0), line[1:])
        offset = max(0, column - _MENTION_CHARS_MAX)
        if match := files.MENTION.search(line[offset:column]):
            return Token("file", (row, offset + match.start()), match["quoted"] or match["plain"] or "")
        return Token("", (0, 0), "")

    def _complete(self) -> None:
        token, before = self._token_now(), self._token
        if token == before and self.completion.is_open:
            return
        self._token = token
        if token.place_of != before.place_of:
            self._files = None
        if self._closed_token is not None and token.place_of == self._closed_token.place_of:
            token = Token("", (0, 0), "")
        else:
            self._closed_token = None
        self.workers.cancel_group(self, "completion")
        match token.kind:
            case "input":
                self._found = self.inputs.found(token.query, CHOICES_MAX)
                self.completion.show([Choice(one_line(found.text, 400)) for found in self._found])
            case "action":
                self._offer_actions(token.query)
            case "file":
                self._offer_files(token)
            case _:
                self.completion.close()

    @work(group="completion")
    async def _offer_files(self, token: Token) -> None:
        if self._files is None:
            listing = asyncio.to_thread(files.list_files, self._cwd or os.getcwd())
            self._files = asyncio.ensure_future(listing)
        names = await asyncio.shield(self._files)
        names = await asyncio.to_thread(fuzzy.best, token.query, names, CHOICES_MAX)
        self.completion.show([Choice(name) for name in names])

    def _offer_actions(self, query: str) -> None:
        """Those of the table that are valid now, wherever they belong."""
        active = [a for a in self.screen.active_bindings.values() if a.enabled and a.binding.id in _OFFERED]
        self._offered = {a.binding.action.replace("_", "-"): a for a in active}
        names = fuzzy.best(query, sorted(self._offered), CHOICES_MAX)
        chosen = [(name, self._offered[name].binding) for name in names]
        self.completion.show(
            [Choice(f"/{name}", f"{b.tooltip}  ({self.app.get_key_display(b)})") for name, b in chosen]
        )

    def _take_clicked(self) -> None:
        self._take()

    def _take(self) -> bool:
        """The choice under the cursor in place of what was typed of it; False where nothing is left to complete."""
        token, index = self._token_now(), self.completion.choice
        name = self.completion.choices[index].name
        match token.kind:
            case "input":
                self._end_search(self._found[index])
            case "action":
                active = self._offered[name[1:]]
                self._show("", {})
                self.call_later(self.app.run_action, active.binding.action, active.node)
            case "file":
                if name == token.query or not fuzzy.score(token.query, name):
                    return False
                self.replace(files.mention(name), token.place, self.cursor_location, maintain_selection_offset=False)
            case _:
                return False
        return True

    def _close_completion(self) -> None:
        self.workers.cancel_group(self, "completion")
        self._closed_token = self._token
        self.completion.close()

    # -- keys ----------------------------------------------------------------------------------------------------

    async def _on_key(self, event: events.Key) -> None:
        """Its own keys are handled here and not on their way through the parents, so that fast typing keeps its order.
        The text area inserts what is left and can be seen."""
        is_taken = self._press(event)
        if not is_taken and not event.is_printable:
            active = self.screen.active_bindings.get(event.key)
            is_taken = active is not None and active.node is self and active.enabled
            if active is not None and is_taken:
                await self.run_action(active.binding.action)
        if is_taken:
            event.stop()
        if is_taken or event.key == "enter":
            event.prevent_default()

    def _press(self, event: events.Key) -> bool:
        key = event.key
        if self.completion.is_open:
            match key:
                case "down":
                    self.completion.action_down()
                    return True
                case "up":
                    self.completion.action_up()
                    return True
                case "tab" | "enter":
                    if self._take():
                        return True
                    self._close_completion()
                    return key == "tab"
                case "escape" if not self._is_searching:
                    self._close_completion()
                    return True
        if self._is_searching and key in ("escape", "enter", "tab"):
            self._end_search()
            return True
        if key == "left" and self.text:  # with nothing written it is a binding's
            self.action_cursor_left()
            return True
        if self._vim is None:
            return False
        if not self._vim.is_normal:
            if key == "escape":
                self._vim.leave_insert()
            return key == "escape"
        typed = _VIM_KEYS.get(key, event.character if event.is_printable else None)
        if typed:
            self._vim.press(typed)
        return bool(typed)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "back":
            return not self.text
        return self.screen.check_action(action, parameters) if action in SHARED else True

    def action_copy(self) -> None:
        """What is marked, here or elsewhere; with nothing marked it clears what is written, which can be undone."""
        if self.selected_text:
            super().action_copy()
        elif self.screen.get_selected_text():
            self.screen.action_copy_text()
        elif self.text:
            self.clear()
        else:
            self.app.action_help_quit()

    def action_queue(self) -> None:
        row, column = self.cursor_location
        if self.document.get_line(row)[:column].endswith("\\"):
            self.replace("\n", (row, column - 1), (row, column), maintain_selection_offset=False)
        else:
            self._send("queue")

    def action_steer(self) -> None:
        self._send("steer")

    def action_newline(self) -> None:
        self.replace("\n", *self.selection, maintain_selection_offset=False)

    def action_back(self) -> None:
        """Who has just deleted what was written may have meant to go on deleting, or to move in it."""
        is_sudden, self._emptied_at_s = time.monotonic() - self._emptied_at_s <= EMPTIED_S, float("-inf")
        if is_sudden:
            self.notify("once more to go back to all sessions", timeout=EMPTIED_S)
        else:
            self.post_message(self.Left())

    def action_interrupt(self) -> None:
        now_s = time.monotonic()
        is_twice, self._escaped_at_s = now_s - self._escaped_at_s <= TWICE_S, now_s
        if is_twice:
            self._escaped_at_s = float("-inf")
            self.post_message(self.Interrupted())
            self._draw_border()
        else:
            self.border_subtitle = self.again
            self.set_timer(TWICE_S, self._draw_border)

    def action_editor(self) -> None:
        """In the person's own editor, with pasted texts in place."""
        text, images = Draft(self.text, self._pieces).expanded()
        editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
        try:
            with self.app.suspend():
                text = edit_outside(text, shlex.split(editor), ".md")
        except (OSError, ValueError, subprocess.CalledProcessError, SuspendNotSupported) as error:
            self._complain(f"cannot use the editor {one_line(editor, 40)}: {one_line(error)}")
            return
        self._show(text, {label: piece for label, piece in self._pieces.items() if piece in images})

    # -- how it looks --------------------------------------------------------------------------------------------

    @property
    def _marks(self) -> Marks:
        return self.screen.look.marks if isinstance(self.screen, KheishScreen) else UNICODE

    @property
    def gutter_width(self) -> int:
        """The mark has its place here."""
        return 2

    def watch_hint(self) -> None:
        self._draw_border()

    def _draw_border(self) -> None:
        is_shell = self.text.startswith("!") and not self._is_searching
        self.set_class(is_shell, "-shell")
        name = escape(one_line(shell.name_of(self._shell_place, self._cwd), 40))
        place = f" in {name}" if self._shell_place else ""
        said = f"shell{place}: runs with bash, under the session's permissions" if is_shell else ""
        said = "search what was written before: Enter takes it, Esc leaves" if self._is_searching else said
        mode = self._vim.mode if self._vim is not None else ""
        self.border_title = " · ".join(filter(None, (mode, said)))
        self.border_subtitle = "" if self._is_searching else escape(one_line(self.hint))

    def get_line(self, line_index: int) -> Text:
        line = super().get_line(line_index)
        for start, end in self._places(line_index):
            line.stylize(self.get_component_rich_style("composer--piece", partial=True), start, end)
        return line

    def render_line(self, y: int) -> Strip:
        is_first = self.scroll_offset.y + y == 0
        mark = self._marks.user if is_first else " "
        style = self.get_component_rich_style("composer--mark")
        return Strip.join([Strip([Segment(f"{mark} ", style)]), super().render_line(y)])
