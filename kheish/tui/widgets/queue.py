"""What waits above the composer: inputs in the queue, and those that steer the active run at its next boundary."""

from __future__ import annotations

from collections.abc import Sequence

from textual.message import Message

from kheish.terminal import one_line
from kheish.tui.actions import bindings
from kheish.tui.lines import cut_columns, strip_of
from kheish.tui.live import Queued
from kheish.tui.look import Look
from kheish.tui.widgets.rows import Item, Rows

LINES_MAX = 5


class Queue(Rows):
    """Hidden while nothing waits."""

    DEFAULT_CSS = """
    Queue { display: none; height: auto; max-height: 5; padding: 0 1; background: $surface; }
    """
    BINDINGS = bindings("queue")

    class Edit(Message):
        def __init__(self, queued: Queued) -> None:
            super().__init__()
            self.queued = queued

    class Withdraw(Edit):
        pass

    class First(Edit):
        """To the head of the queue."""

    class Closed(Message):
        pass

    def __init__(self) -> None:
        super().__init__()
        self._queue: list[Queued] = []

    def show(self, queue: Sequence[Queued], look: Look, hint: str) -> None:
        """What steers comes first, since it enters first. `hint` says which key leads here."""
        self._queue = sorted(queue, key=lambda queued: not queued.is_steered)
        steering = sum(queued.is_steered for queued in queue)
        self.display = bool(queue)
        self.styles.height = min(LINES_MAX, len(queue))
        # The first that can be edited says how to come to it.
        hinted = None if self.has_focus else next((q for q in self._queue if q.is_sent and not q.is_steered), None)
        self.set(
            [
                _item(queued, i, look, hint if queued is hinted else "")
                for i, queued in enumerate(self._queue, 1 - steering)
            ]
        )
        if not queue and self.has_focus:
            self.post_message(self.Closed())

    def _chosen(self) -> Queued | None:
        return next((queued for queued in self._queue if queued.id == self.cursor), None)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in ("edit", "withdraw", "go_first"):
            chosen = self._chosen()
            return chosen is not None and chosen.is_sent and not chosen.is_steered
        return True

    def action_edit(self) -> None:
        if (chosen := self._chosen()) is not None:
            self.post_message(self.Edit(chosen))

    def action_withdraw(self) -> None:
        if (chosen := self._chosen()) is not None:
            self.post_message(self.Withdraw(chosen))

    def action_go_first(self) -> None:
        if (chosen := self._chosen()) is not None:
            self.post_message(self.First(chosen))

    def action_leave_queue(self) -> None:
        self.post_message(self.Closed())


def _item(queued: Queued, position: int, look: Look, hint: str) -> Item:
    head = "steers  " if queued.is_steered else f"queued {position}" if queued.is_sent else "no answer yet"
    text = one_line(queued.text)
    return Item(
        queued.id,
        lambda width: strip_of(
            (f"{look.marks.queued} ", look.dim),
            (f"{head}  ", look.dim),
            (cut_columns(text, width - len(head) - len(hint) - 6, look.marks.ellipsis), look.text),
            (f"  {hint}", look.dim),
        ),
    )
