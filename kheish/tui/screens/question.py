"""Questions of a model, one after the other, then all answers at a glance, which are sent together."""

from __future__ import annotations

from rich.style import Style
from textual import events
from textual.app import ComposeResult
from textual.message import Message
from textual.strip import Strip
from textual.widgets import Input

from kheish.client import AnswerBody, QuestionItem, QuestionView
from kheish.terminal import one_line
from kheish.tui.actions import ACTIONS, bindings
from kheish.tui.lines import strip_of, wrap
from kheish.tui.look import Look
from kheish.tui.screens.request import Request
from kheish.tui.widgets.choices import Choices
from kheish.tui.widgets.field import Field
from kheish.tui.widgets.sheet import Sheet


class Answer:
    """What the person says to one question so far: options by id, and own words."""

    def __init__(self) -> None:
        self.chosen: list[str] = []
        self.words = ""

    def mark(self, option_id: str, *, is_multi: bool) -> None:
        """Marks an option, or where several may be chosen takes its mark away."""
        if option_id in self.chosen and is_multi:
            self.chosen.remove(option_id)
        else:
            self.chosen = [*self.chosen, option_id] if is_multi else [option_id]

    def body(self, question: QuestionItem) -> AnswerBody:
        order = [option["id"] for option in question["options"] if option["id"] in self.chosen]
        return {"question_id": question["id"], "selected_option_ids": order, "freeform_answer": self.words}

    def text(self, question: QuestionItem) -> str:
        labels = [option["label"] for option in question["options"] if option["id"] in self.chosen]
        return ", ".join([*labels, *filter(None, [self.words])])

    def __bool__(self) -> bool:
        return bool(self.chosen or self.words.strip())


class Form(Sheet):
    """A question with its choices, or all answers; a click chooses. `places` says which choice each line is of."""

    def __init__(self) -> None:
        super().__init__(id="form")
        self.can_focus = False
        self.places: list[int] = []

    class Pressed(Message):
        def __init__(self, choice: int) -> None:
            super().__init__()
            self.choice = choice

    def on_click(self, event: events.Click) -> None:
        line = round(self.scroll_y) + event.y - self.gutter.top
        if 0 <= line < len(self.places) and self.places[line] >= 0:
            self.post_message(self.Pressed(self.places[line]))

    def reveal(self, choice: int) -> None:
        """Brings all lines of a choice into sight; for the first one also what is above it."""
        lines = [line for line, of in enumerate(self.places) if of == choice]
        if not lines:
            return
        first, last = lines[0] if choice else 0, lines[-1]
        height = max(1, self.scrollable_content_region.height)
        if last >= round(self.scroll_y) + height:
            self.scroll_to(y=last - height + 1, animate=False)
        elif first < round(self.scroll_y):
            self.scroll_to(y=first, animate=False)


class Question(Request):
    CSS = """
    Question Form { margin-top: 1; }
    Question #field { display: none; padding: 0 1; background: $panel; }
    """
    BINDINGS = bindings("question")

    def __init__(self, request_id: str) -> None:
        super().__init__(request_id)
        self._step = 0
        """The question that is shown, from 0; after the last one all answers are."""
        self._cursor = 0
        self._answers: list[Answer] = []
        self._mode = "choose"
        """Or `words` and `decline`: something is written."""

    @property
    def _questions(self) -> list[QuestionItem]:
        return self.view["questions"] if self.view is not None else []

    @property
    def _is_summary(self) -> bool:
        return self._step >= len(self._questions)

    def headline(self) -> str:
        return "A question" if len(self._questions) < 2 else "Questions"

    def what(self) -> str:
        if len(self._questions) < 2:
            return "your answer" if self._is_summary else ""
        return "your answers" if self._is_summary else f"{self._step + 1}/{len(self._questions)}"

    def body(self) -> ComposeResult:
        yield Form()
        yield Field(id="field", compact=True)

    async def fetch(self) -> QuestionView:
        return await self.client.questions.get(self.request_id)

    def came(self) -> None:
        self._answers = [Answer() for _ in self._questions]
        self._go_to(0)

    # -- what is shown -------------------------------------------------------------------------------------------

    def draw(self) -> None:
        if not self.is_mounted:
            return
        self.draw_heading()
        form = self.query_one(Form)
        form.show(self._form)
        form.reveal(self._cursor)
        self.query_one("#field").display = self._mode != "choose"
        self.refresh_bindings()
        choices = self.query_one(Choices)
        choices.is_dim = self.is_deaf or self.is_sending or bool(self.settled)
        choices.show(self._choices())

    def _form(self, width: int) -> list[Strip]:
        if self.view is None:
            return []
        look = self.look
        lines, places = (
            summary_lines(self._questions, self._answers, width, look)
            if self._is_summary
            else step_lines(self._questions[self._step], self._answers[self._step], self._cursor, width, look)
        )
        self.query_one(Form).places = places
        return lines

    def _choices(self) -> list[tuple[str, str]]:
        if self._mode != "choose":
            return [("submit", "Decline" if self._mode == "decline" else "Take it"), ("later", "Back")]
        last = self._step == len(self._questions) - 1
        on = "Send" if self._is_summary else "Look over" if last else "Next"
        return [("go_on", on), ("mark", "Mark"), ("words", "Own words"), ("before", "Back"), ("decline", "Decline"),
                ("later", "Later")]  # fmt: skip

    # -- what may be done now ------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action not in _ACTIONS or action == "later":
            return True
        if self.view is None or self.settled or self.is_sending or self._mode != "choose":
            return False
        if action == "before":
            return self._step > 0
        if action == "mark":
            return not self._is_summary and self._questions[self._step]["multi_select"]
        return not self._is_summary or action in ("go_on", "decline")

    def action_later(self) -> None:
        if self._mode == "choose" or self.settled:
            super().action_later()
        elif self._mode == "words" and not self._questions[self._step]["options"]:
            self._mode = "choose"
            super().action_later()
        else:
            self._write_no_more()

    def action_down(self) -> None:
        self._move(1)

    def action_up(self) -> None:
        self._move(-1)

    def _move(self, by: int) -> None:
        self._cursor = max(0, min(self._cursor + by, len(self._questions[self._step]["options"])))
        self.draw()

    def on_form_pressed(self, event: Form.Pressed) -> None:
        if self.check_action("words", ()):
            self._cursor = event.choice
            self.draw()
            self.decide(self._press)

    def key_pressed(self, event: events.Key) -> None:
        number = int(event.key) - 1 if event.key.isdecimal() and event.key.isascii() else -1
        if self.check_action("words", ()) and 0 <= number < len(self._questions[self._step]["options"]):
            event.stop()
            self._cursor = number
            self.draw()
            self.decide(self._press)

    def action_mark(self) -> None:
        self.decide(self._mark)

    def action_go_on(self) -> None:
        self.decide(self._send_all if self._is_summary else self._go_on)

    def action_words(self) -> None:
        self.decide(lambda: self._write("words", self._answers[self._step].words, "in your own words"))

    def action_before(self) -> None:
        self._go_to(self._step - 1)

    def action_decline(self) -> None:
        self.decide(lambda: self._write("decline", "", "why; the model is told"))

    # -- answering -----------------------------------------------------------------------------------------------

    def _press(self) -> None:
        """The choice under the cursor, by its number or a click."""
        if self._mark() and not self._questions[self._step]["multi_select"]:
            self._go_to(self._step + 1)

    def _mark(self) -> bool:
        """Marks what is under the cursor. False where that is to be written first."""
        question, answer = self._questions[self._step], self._answers[self._step]
        if self._cursor >= len(question["options"]):
            self._write("words", answer.words, "in your own words")
            return False
        answer.mark(question["options"][self._cursor]["id"], is_multi=question["multi_select"])
        self.draw()
        return True

    def _go_on(self) -> None:
        question, answer = self._questions[self._step], self._answers[self._step]
        if self._cursor < len(question["options"]) and not question["multi_select"]:
            self._press()
        elif answer:
            self._go_to(self._step + 1)
        elif question["multi_select"] and self._cursor < len(question["options"]):
            self._say("nothing is marked: space marks")
        else:
            self._mark()

    def _go_to(self, step: int) -> None:
        self._step, self._mode, self._cursor = step, "choose", 0
        if self._is_summary:
            self.arm()
        elif not self._questions[step]["options"]:
            self._write("words", self._answers[step].words, "in your own words")
            return
        elif chosen := self._answers[step].chosen:
            ids = [option["id"] for option in self._questions[step]["options"]]
            self._cursor = ids.index(chosen[0])
        self.set_focus(None)
        self.draw()

    def _write(self, mode: str, value: str, prompt: str) -> None:
        self._mode = mode
        field = self.query_one("#field", Input)
        field.value, field.placeholder = value, prompt
        self.draw()
        field.focus()

    def _write_no_more(self) -> None:
        self._mode = "choose"
        self.set_focus(None)
        self.draw()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        value = event.value.strip()
        if self._mode == "decline":
            self.decide(lambda: self._send_decline(value))
        elif self._mode == "words":
            self._answers[self._step].words = value
            self._write_no_more()
            if self._answers[self._step]:
                self._go_to(self._step + 1)
            elif not self._questions[self._step]["options"]:
                self._go_to(self._step)

    def _send_all(self) -> None:
        answers = [answer.body(question) for question, answer in zip(self._questions, self._answers, strict=True)]
        self.send(lambda key: self.client.questions.answer(self.request_id, answers, key=key))

    def _send_decline(self, why: str) -> None:
        self.send(
            lambda key: self.client.questions.answer(self.request_id, declined=True, justification=why or None, key=key)
        )


_ACTIONS = {action.name for action in ACTIONS if action.where == "question"}


def step_lines(
    question: QuestionItem, answer: Answer, cursor: int, width: int, look: Look
) -> tuple[list[Strip], list[int]]:
    """(lines, the choice that each is of or -1) of one question."""
    lines: list[Strip] = []
    places: list[int] = []

    def add(text: str, style: Style, choice: int = -1, first: str = "", first_style: Style | None = None) -> None:
        indent = len(first)
        for i, line in enumerate(wrap(text, max(8, width - indent))):
            lines.append(strip_of((first if i == 0 else " " * indent, first_style), (line, style)))
            places.append(choice)

    several = "several may be chosen" if question["multi_select"] else ""
    if about := " · ".join(filter(None, (one_line(question["header"]), several))):
        add(about, look.dim)
    add(question["question"], look.strong)
    add("", look.text)
    for i, option in enumerate(question["options"]):
        is_here, is_chosen = i == cursor, option["id"] in answer.chosen
        box = f"[{look.marks.done if is_chosen else ' '}] " if question["multi_select"] else ""
        mark = look.marks.user if is_here else " "
        style = look.heading if is_here else look.success if is_chosen else look.text
        add(option["label"], style, i, f"{mark} {i + 1:>2}  {box}", style)
        if option["description"].strip():
            add(option["description"], look.dim, i, " " * (6 + len(box)))
    last = len(question["options"])
    is_here = last > 0 and cursor == last
    style = look.heading if is_here else look.success if answer.words else look.dim
    if last or answer.words:
        add(answer.words or "in your own words", style, last, f"{look.marks.user if is_here else ' '}     ", style)
    return lines, places


def summary_lines(
    questions: list[QuestionItem], answers: list[Answer], width: int, look: Look
) -> tuple[list[Strip], list[int]]:
    lines: list[Strip] = []
    for question, answer in zip(questions, answers, strict=True):
        lines += [strip_of((line, look.dim)) for line in wrap(question["question"], width)]
        lines += [strip_of((f"{look.marks.user} " if i == 0 else "  ", look.success), (line, look.strong))
                  for i, line in enumerate(wrap(answer.text(question), max(8, width - 2)))]  # fmt: skip
        lines.append(strip_of())
    return lines, [-1] * len(lines)
