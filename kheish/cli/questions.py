"""`kheish answer` and `kheish questions ...`."""

from __future__ import annotations

from kheish.cli.output import paint, print_json, print_table, say, short_ids
from kheish.cli.targets import connect, find_session
from kheish.errors import Invalid
from kheish.terminal import ago, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheish.client import AnswerBody, QuestionItem, QuestionView
    from kheish.client.views import QuestionRequested


def answer(
    request_id: str, text: list[str] | None, option: list[str], decline: bool, message: str, as_json: bool
) -> int:
    client = connect()
    pending = client.questions.get(request_id)
    words = " ".join(text or [])
    if decline == bool(words or option):
        raise Invalid("cannot answer: give a text or --option, or --decline")
    answers = [] if decline else make_answers(pending["questions"], words, option)
    run = client.questions.answer(pending["request_id"], answers, declined=decline, justification=message or None)
    if as_json:
        print_json(run)
    else:
        print("declined" if decline else "answered")
        say(f"run {run['run_id']} is {run['status'].replace('_', ' ')}")
    return 0


def make_answers(questions: list[QuestionItem], text: str, options: list[str]) -> list[AnswerBody]:
    """Answers in the API's form. With one question, options belong to it and the text is its free answer; with
    several, `QUESTION=CHOICE` says which, and the text answers those that have no choice. Raises Invalid."""
    chosen: dict[str, list[str]] = {q["id"]: [] for q in questions}
    for item in options:
        question, choice = questions[0], item
        if len(questions) > 1:
            number, equals, choice = item.partition("=")
            found = [q for q in questions if q["id"] == number or q.get("header", "").lower() == number.lower()]
            if not equals or not found:
                raise Invalid(
                    f"cannot tell which question {item!r} answers: write QUESTION=CHOICE, with a question of "
                    f"1-{len(questions)}"
                )
            question = found[0]
        chosen[question["id"]].append(_option_id(question, choice))
    return [
        {
            "question_id": q["id"],
            "selected_option_ids": chosen[q["id"]],
            "freeform_answer": text if not chosen[q["id"]] or len(questions) == 1 else "",
        }
        for q in questions
    ]


def _option_id(question: QuestionItem, choice: str) -> str:
    options = question.get("options", ())
    for option in options:
        if choice == option["id"]:
            return str(option["id"])
    matching = [o for o in options if o["label"].lower().startswith(choice.lower())]
    exact = [o for o in matching if o["label"].lower() == choice.lower()]
    if len(exact or matching) != 1:
        labels = ", ".join(f"{o['id']}: {one_line(o['label'])}" for o in options) or "it has none; give a text"
        raise Invalid(f"cannot choose {choice!r}: the options are {labels}")
    return str((exact or matching)[0]["id"])


def decline(request_id: str, message: str, as_json: bool) -> int:
    return answer(request_id, None, [], True, message, as_json)


def list_(session: str | None, as_json: bool) -> int:
    client = connect()
    rows = client.questions.list(session_id=find_session(client, session) if session else None)
    if as_json:
        print_json(rows)
    elif not rows:
        say("nothing waits for an answer")
    else:
        short = short_ids(r["request_id"] for r in rows)
        print_table(
            ("question", "session", "age", "asks"),
            [
                (short(r["request_id"]), r["session_id"], ago(r["requested_at_ms"]),
                 " / ".join(q["question"] for q in r["questions"]))
                for r in rows
            ],
        )  # fmt: skip
    return 0


def show(request_id: str, as_json: bool) -> int:
    view = connect().questions.get(request_id)
    if as_json:
        print_json(view)
        return 0
    print(paint(view["request_id"], "yellow"))
    for line in question_lines(view["questions"]):
        print(line)
    return 0


def question_lines(questions: list[QuestionItem]) -> Iterator[str]:
    for question in questions:
        several = " (several may be chosen)" if question.get("multi_select") else ""
        number = f"{question['id']}. " if len(questions) > 1 else ""
        yield f"  {number}{one_line(question['question'])}{several}"
        for option in question.get("options", ()):
            note = f" - {one_line(option['description'])}" if option.get("description") else ""
            yield f"    {option['id']}. {one_line(option['label'])}{note}"


def answer_hint(view: QuestionView | QuestionRequested, id_: str) -> str:
    """The command that answers it."""
    questions = view["questions"]
    chosen = [q for q in questions if q.get("options")]
    options = [f"--option {q['id']}=N" for q in chosen] if len(questions) > 1 else ["--option N"] * len(chosen)
    return " ".join(["kheish answer", id_, *options, *(["TEXT"] if len(chosen) < len(questions) else [])])
