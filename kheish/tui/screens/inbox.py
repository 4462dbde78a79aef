"""What waits for the person, in all sessions, oldest first; and the whole of what the chosen one asks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from textual.strip import Strip
from textual.widget import Widget

from kheish.narration import call_text
from kheish.terminal import ago, counted, expose, one_line
from kheish.tui.actions import bindings
from kheish.tui.lines import cut_columns, strip_of, wrap
from kheish.tui.live import Row
from kheish.tui.look import Look
from kheish.tui.screens.aside import Aside
from kheish.tui.widgets.rows import Item, Rows
from kheish.tui.widgets.sheet import Sheet, fact

AGES_S = 1.0


class Ask(NamedTuple):
    """A request that waits. `view` is what the API shows of it; empty until that is known."""

    request_id: str
    row: Row
    view: dict[str, Any]

    @property
    def at_ms(self) -> int:
        return int(self.view.get("requested_at_ms", 0))

    @property
    def kind(self) -> str:
        if self.request_id.startswith("question_"):
            return "question"
        return {"uncertain": "outcome?", "budget": "budget"}.get(self.view.get("kind", ""), "approval")

    @property
    def text(self) -> str:
        if "questions" in self.view:
            first, *rest = [one_line(question["question"]) for question in self.view["questions"]]
            return first + f"  (+{len(rest)})" * bool(rest)
        return call_text(self.view["tool"], self.view["input"]) if "tool" in self.view else self.request_id


def asks_of(rows: Iterable[Row]) -> list[Ask]:
    """Oldest first."""
    asks = [Ask(request_id, row, view) for row in rows for request_id, view in row.asks.items()]
    return sorted(asks, key=lambda ask: (ask.at_ms, ask.request_id))


class Inbox(Aside):
    CSS = """
    Inbox Rows { height: 1fr; padding: 0 1; }
    Inbox Sheet { height: 40%; border-top: solid $panel; }
    """
    BINDINGS = bindings("inbox")

    def __init__(self) -> None:
        super().__init__()
        self._asks: list[Ask] = []

    def body(self) -> Iterable[Widget]:
        yield Rows()
        yield Sheet()

    def on_mount(self) -> None:
        self.query_one(Rows).focus()
        self.set_interval(AGES_S, self.draw)

    def board_changed(self, rows: Sequence[Row] | None) -> None:
        """Most changes of the board concern nobody here."""
        if rows is None or asks_of(self.kheish.board.rows.values()) != self._asks:
            self.draw()

    def draw(self) -> None:
        if not self.is_mounted or not self.is_current:
            return
        asks = self._asks = asks_of(self.kheish.board.rows.values())
        look, now_ms = self.look, self.kheish.now_ms
        many = len({ask.row.session_id for ask in asks})
        waits = f"{len(asks)} wait{'s' * (len(asks) == 1)} for you in {counted(many, 'session')}"
        self.head.show(look, "Inbox", waits if asks else "")
        self.query_one(Rows).set([_item(ask, look, now_ms) for ask in asks] or _nothing(look))
        self._draw_chosen()

    def _draw_chosen(self) -> None:
        ask, look = self._chosen(), self.look
        sheet = self.query_one(Sheet)
        sheet.display = ask is not None
        if ask is not None:
            sheet.show(lambda width: draw_ask(ask, width, look))

    def _chosen(self) -> Ask | None:
        request_id = self.query_one(Rows).cursor
        return next((ask for ask in self._asks if ask.request_id == request_id), None)

    def on_rows_highlighted(self) -> None:
        self._draw_chosen()
        self.query_one(Sheet).action_first()
        self.refresh_bindings()

    def on_rows_chosen(self, message: Rows.Chosen) -> None:
        self.action_open()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return bool(self.query_one(Rows).cursor) if action in ("open", "session") else True

    def action_open(self) -> None:
        if ask := self._chosen():
            self.kheish.open_request(ask.request_id)

    def action_session(self) -> None:
        if ask := self._chosen():
            self.kheish.open_session(ask.row.session_id)


def _item(ask: Ask, look: Look, now_ms: int) -> Item:
    def draw(width: int) -> Strip:
        name_width = max(10, min(28, width // 4))
        name = cut_columns(one_line(ask.row.name), name_width, look.marks.ellipsis)
        room = width - name_width - 20
        return strip_of(
            (f"{look.marks.waiting} {ask.kind:<9} ", look.warning),
            (f"{ago(ask.at_ms, now_ms) if ask.at_ms else '':>4}  ", look.dim),
            (name + " " * (name_width + 2 - strip_of((name, None)).cell_length), look.strong),
            (cut_columns(ask.text, max(0, room), look.marks.ellipsis), look.text),
        )

    return Item(ask.request_id, draw)


def _nothing(look: Look) -> list[Item]:
    lines = (
        (f"{look.marks.done} Nothing waits for you", look.success),
        ("Approvals and questions of all sessions come up here the moment they are asked", look.dim),
    )
    found = [Item("", lambda _: strip_of())]
    for text, style in lines:
        found.append(Item("", lambda _, text=text, style=style: strip_of((text, style))))  # type: ignore[misc]
    return found


def draw_ask(ask: Ask, width: int, look: Look) -> list[Strip]:
    """The whole of what is asked, with what cannot be seen written out."""
    view = ask.view
    lines = fact("session", one_line(ask.row.name), width, look, look.strong)
    lines += fact("directory", one_line(view.get("cwd") or ask.row.cwd), width, look)
    if "questions" in view:
        for question in view["questions"]:
            lines += [strip_of(), *(strip_of((line, look.strong)) for line in wrap(question["question"], width))]
            for i, option in enumerate(question.get("options", ()), 1):
                about = f": {option['description']}" if option.get("description") else ""
                lines += [strip_of((line, look.text)) for line in wrap(f"  {i}. {option['label']}{about}", width)]
        return lines
    rule = f"{view.get('rule', '')}  {view.get('reason', '')}".strip()
    lines += fact("rule", expose(rule), width, look, look.dim)
    given = view.get("input", {})
    command = given.get("command")
    if set(given) == {"command"} and isinstance(command, str):
        text = command
    elif view.get("kind") == "budget":
        text = "\n".join(f"{name:<8} {value}" for name, value in given.items())
    else:
        text = json.dumps(given, indent=2, ensure_ascii=False)
    lines += [strip_of(), strip_of((one_line(view.get("tool", "")), look.warning))]
    return lines + [strip_of((f"  {line}", look.text)) for line in wrap(expose(text), width - 2)]
