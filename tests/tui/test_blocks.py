"""The text of a model as lines: the same in pieces as whole, nothing left out, nothing that acts on the terminal."""

from __future__ import annotations

import re
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.style import Style
from textual.strip import Strip

from kheish.tui.blocks import BLOCK_CHARS_GOOD, Blocks, parts
from kheish.tui.code import breaks
from kheish.tui.look import THEMES, Look, look_of


def make_look(*, ascii_only: bool = False, theme: int = 0) -> Look:
    found = THEMES[theme]
    return look_of(found.to_color_system().generate(), is_dark=found.dark, ascii_only=ascii_only)


LOOK = make_look()

LINES = st.sampled_from(
    [
        "", "", "", "   ", "# Title", "### Title `w`", "para w", "para *w* **w", "w** `code", "code` end", "- item w",
        "* item w", "  - nested w", "      - deep w", "  more w", "1. one w", "2. two w", "   in two w", "10) ten w",
        "- [x] done w", "```", "```python", "~~~", "````", "  ```sh", "   ```", "\t```", "    code w", "def f(w): # w",
        "> quote w", "> > deeper w", "> - item w", "> ```", "---", "===", "***", "- - -", "| a w | b |", "|---|--:|",
        "| w | w |", "[w]: http://w.example/w", "[w](http://w.example/w 'w')", "![w](w.png)", "<div>w</div>", "<br>w",
        "<!-- w", "w -->", "&lt; w &#27; w", "\\* w", "http://w.example/w", "\x1b[31mw\x1b[0m", "\x1b]8;;w", "w\rw",
        "日本語 w", "e\u0301 👩‍👩‍👧 w", "שלום w", "a\tb w", "\u202ew", "w " * 40, "w" * 200, "``` not `a` fence w",
    ]
)  # fmt: skip
TEXTS = st.lists(LINES, max_size=14).map("\n".join)


def texts_of(lines: list[Strip]) -> list[str]:
    return [line.text for line in lines]


def drawn(text: str, width: int = 40, look: Look = LOOK) -> list[str]:
    blocks = Blocks()
    blocks.set(text)
    return [line.rstrip() for line in texts_of(blocks.lines(width, look))]


def styles_of(text: str, piece: str) -> Style:
    blocks = Blocks()
    blocks.set(text)
    (found,) = [
        s.style for line in blocks.lines(80, LOOK) for s in line if s.text.strip() == piece and s.style is not None
    ]
    return found


@given(TEXTS | st.text(), st.lists(st.integers(1, 40), min_size=1), st.integers(1, 60))
@example("a\n```x` y", [1], 40)
@settings(max_examples=300, deadline=None)
def test_pieces_make_the_same_lines_as_the_whole(text: str, sizes: list[int], width: int) -> None:
    growing, whole = Blocks(), Blocks()
    at = number = 0
    while at < len(text):
        at += sizes[number % len(sizes)]
        number += 1
        growing.set(text[:at])
        growing.lines(width, LOOK)
    growing.set(text)
    whole.set(text)
    assert texts_of(growing.lines(width, LOOK)) == texts_of(whole.lines(width, LOOK))


@given(TEXTS, st.integers(0, 1_000), TEXTS)
@settings(max_examples=100, deadline=None)
def test_another_text_is_drawn_as_if_there_was_none_before(text: str, kept: int, other: str) -> None:
    blocks, fresh = Blocks(), Blocks()
    for part in (text, text[:kept] + other):
        blocks.set(part)
        found = blocks.lines(30, LOOK)
    fresh.set(text[:kept] + other)
    assert texts_of(found) == texts_of(fresh.lines(30, LOOK))


@given(TEXTS | st.text(), st.integers(1, 90))
@settings(max_examples=200, deadline=None)
def test_no_line_is_wider_than_the_width_or_moves_the_cursor(text: str, width: int) -> None:
    blocks = Blocks()
    blocks.set(text)
    for line in blocks.lines(width, LOOK):
        assert line.cell_length == cell_len(line.text) <= width
        assert not any(unicodedata.category(c) == "Cc" or c in "\u202e\u2066" for c in line.text)


@given(st.lists(LINES.map(lambda line: line.replace("\x1b]8;;w", "w")), max_size=14))
@settings(max_examples=300, deadline=None)
def test_no_word_is_left_out(lines: list[str]) -> None:
    numbers = iter(range(10_000))
    lines = [re.sub("w+", lambda _: f"wx{next(numbers)}y", line) for line in lines]
    words = re.findall(r"wx\d+y", "\n".join(lines))
    found = "".join(drawn("\n".join(lines), 300))
    # A link shows where it leads; its title stands for nothing. More cells than a table has columns are not shown.
    hidden = set(re.findall(r"wx\d+y(?='\))", "\n".join(lines)))
    if "|---|" not in "".join(lines):
        assert [word for word in words if word not in found and word not in hidden] == []


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("# Title\ntext\n\n\n\nmore", ["Title", "text", "", "more"]),
        ("Title\n===\ntext", ["Title", "text"]),
        ("two\nlines  \nand\\\nmore", ["two", "lines", "and", "more"]),
        ("- a\n- b\n  - c\n\n  in b\n\n- d", ["· a", "· b", "  · c", "", "  in b", "", "· d"]),
        ("1. a\n1. b\n10. c", ["1. a", "1. b", "10. c"]),
        ("- [x] a\n- [ ] b", ["✓ a", "○ b"]),
        ("text\n- a\n\ntext", ["text", "· a", "", "text"]),
        ("> a\n> > b\n>\n> c", ["▌ a", "▌ ▌ b", "▌", "▌ c"]),
        ("> ```\n> a\n>\n> b\n> ```", ["▌   a", "▌", "▌   b"]),
        ("a\n\n---\nb", ["a", "", "─" * 40, "b"]),
        ("```python\na = 1\n\n\nb\n```\nc", ["  a = 1", "", "", "  b", "c"]),
        ("```py src/a.py\na\n```", ["  py src/a.py", "  a"]),
        ("```What is it\na\n```", ["  What is it", "  a"]),
        ("```\n```", []),
        ("a\n\n```\n```\n\nb", ["a", "", "b"]),
        ("```\n\na\n```", ["", "  a"]),
        ("-\n- b", ["·", "· b"]),
        ("```a``` b\n\n- c", ["a b", "", "· c"]),
        ("````\n```\na\n```\n````", ["  ```", "  a", "  ```"]),
        ("1. a\n   ```sh\n   b\n     c\n   ```\n   d", ["1. a", "     b", "       c", "   d"]),
        ("1. a\n```sh\nb\n```\n2. c", ["1. a", "  b", "2. c"]),
        ("a\n\n    code\n\nb", ["a", "", "  code", "", "b"]),
        ("~~~\n```\n~~~\na", ["  ```", "a"]),
        ("[here](http://x.y) [http://x.y](http://x.y)", ["here (http://x.y) http://x.y"]),
        ("<me@x.y> ![a *b*](c.png)", ["me@x.y a *b* (c.png)"]),
        ("[a]: http://x.y\n[a]", ["[a]: http://x.y", "[a]"]),
        ("<b>x</b> &lt; a<br>b", ["<b>x</b> &lt; a", "b"]),
        ("| a | b |\n|---|--:|\n| long | 1 |\n| c | 22 |", ["a      b", "────  ──", "long   1", "c     22"]),
        ("| a |\n|---|\n" + f"| {'word ' * 10}|", ["a", "─" * 40, ("word " * 8).rstrip(), "word word"]),
        ("a very long line of words that has to go on in a second one", [
            "a very long line of words that has to go", "on in a second one",
        ]),
        ("- a very long item of words that has to go on in a second one", [
            "· a very long item of words that has to", "  go on in a second one",
        ]),
        ("x" * 50, ["x" * 40, "x" * 10]),
        ("日本" * 12, ["日本" * 10, "日本日本"]),
        ("👩\u200d👩\u200d👧" * 24, ["👩\u200d👩\u200d👧" * 20, "👩\u200d👩\u200d👧" * 4]),
        ("e\u0301" * 50, ["e\u0301" * 40, "e\u0301" * 10]),
        ("日 " * 20, [("日 " * 13).rstrip(), ("日 " * 7).rstrip()]),
        ("```\n" + "日" * 19 + "\n" + "日" * 20 + "\n```", ["  " + "日" * 19, "  " + "日" * 18, "  … 日日"]),
        ("```\n" + "x" * 50 + "\n```", ["  " + "x" * 36, "  … " + "x" * 14]),
    ],
)  # fmt: skip
def test_markdown_is_drawn_as_it_stands(text: str, lines: list[str]) -> None:
    assert drawn(text) == lines


@given(st.text(st.sampled_from("  ab日é👩\u200d\u0301"), max_size=60), st.integers(2, 20))
def test_wrapped_lines_are_full_and_whole(text: str, width: int) -> None:
    found = [text[start:end] for start, end in breaks(text, width)]
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(cell_len(line) <= width for line in found if line.strip())
    assert all(found) or not text.strip() or text[0] == " "


def test_a_table_that_has_no_room_is_drawn_as_records() -> None:
    head, rows = (
        "| name | what it is | where |\n|---|---|---|\n",
        "| first one | a long explanation | somewhere else |\n| 2 | b | c |",
    )
    assert drawn(head + rows, 20) == [
        "name: first one", "what it is: a long", "explanation", "where: somewhere", "else", "",
        "name: 2", "what it is: b", "where: c",
    ]  # fmt: skip


def test_a_table_keeps_its_columns_apart_whatever_is_in_them() -> None:
    found = drawn("| a | b |\n|---|---|\n| 日本語 | x |\n| `c` **d**<br>e | y |", 60)
    assert [cell_len(line[: line.index(c)]) for line, c in zip(found[2:4], "xy", strict=True)] == [8, 8]
    assert found[4] == "e"


def test_words_have_the_styles_of_the_look() -> None:
    assert styles_of("# title", "title") == LOOK.heading
    assert styles_of("a `code` b", "code").color == LOOK.code.color
    assert styles_of("a **strong** b", "strong").bold
    assert styles_of("a *em* b", "em").italic
    assert styles_of("a ~~gone~~ b", "gone").strike
    assert styles_of("a **b *both* c**", "both").italic and styles_of("a **b *both* c**", "both").bold
    assert styles_of("- item", "·").color == LOOK.accent.color
    link = styles_of("a [there](http://x.y) b", "there")
    assert link.color == LOOK.link.color and link.link is None
    assert styles_of("see http://x.y/z, or", "http://x.y/z,").underline
    assert styles_of("```python\nreturn 1\n```", "return").color not in (None, LOOK.text.color)
    assert styles_of("```python\nreturn 1\n```", "return").bgcolor is None


def test_the_marks_are_those_of_the_look() -> None:
    found = "".join(drawn("- a\n\n> b\n\n---\n\n```\n" + "x" * 90 + "\n```", 40, make_look(ascii_only=True)))
    assert found.isascii()


@pytest.mark.parametrize(
    "hostile", ["\x1b[2J", "\x1b]0;title\x07", "\x9b2J", "\u202e", "&#27;[2J", "&#x202e;", "&#10;&#9;"]
)
def test_text_of_a_model_does_nothing_to_the_terminal(hostile: str) -> None:
    for text in (
        f"a{hostile}b",
        f"`a{hostile}b`",
        f"```\na{hostile}b\n```",
        f"[a](http://x{hostile}y) ![a](x{hostile}y) <http://x{hostile}>",
        f"> ```x{hostile}y\n> {hostile}\n> ```",
        f"[bold]{hostile}",
    ):
        found = "".join(drawn(text))
        assert not any(unicodedata.category(c) == "Cc" or c == "\u202e" for c in found)
    assert drawn("[bold]a[/bold] [@click=x]b[/]") == ["[bold]a[/bold] [@click=x]b[/]"]


@pytest.mark.parametrize("word", ["x", "日", "word ", "**b** `c` ", "e\u0301"])
def test_a_line_without_end_is_shown_whole(word: str) -> None:
    text = word * 20_000
    found = drawn(text, 80)
    assert re.sub(r"[\s*`]", "", "".join(found)) == re.sub(r"[\s*`]", "", text)
    assert max(map(cell_len, found)) <= 80


def test_parts_of_a_text_are_drawn_as_the_whole_is() -> None:
    fence = "```python\n" + "x = 1\n\n# head\n" * 300 + "```\n"
    text = f"intro\n\n{fence}after it\n- item\n- item\n\n\n# Head\n{'words of a paragraph ' * 2_000}\n\nend" * 3
    for chars in (1, 100, 4_000):
        found: list[str] = []
        for part in (cut := parts(text, chars)):
            found += [*drawn(part, 60), *[""] * (part is not cut[-1] and not part.rpartition("\n")[2].strip())]
        assert found == drawn(text, 60) and len(cut) > 2


def test_blank_lines_are_one() -> None:
    assert drawn("a" + "\n" * 100_000 + "b") == ["a", "", "b"]
    assert drawn("\n" * 100_000) == []
    assert len(drawn("```\n" + "\n" * 500 + "b\n```")) == 501


@pytest.mark.parametrize("mark", ["> ", "- ", "1. ", "*", "[", "![", "`", "~~", "_", "<", "(", "[a](", "| "])
def test_text_nested_without_end_is_still_there(mark: str) -> None:
    assert "word" in "".join(drawn(mark * 900 + " word", 200))


@pytest.mark.parametrize(
    "line", ["some *words* of a line\n", "- item `code`\n", "  - nested\n", "> quoted\n", "| a | b |\n", "  x\n"]
)
def test_a_block_that_grows_long_loses_nothing_where_it_is_cut(line: str) -> None:
    count = 3 * BLOCK_CHARS_GOOD // len(line)
    word = re.findall("[a-z]+", line)[0]
    assert sum(word in found for found in drawn("- top\n" * line.startswith(" ") + line * count, 60)) == count


def test_code_in_a_quote_is_cut_nowhere() -> None:
    lines = ["- item", "# head", "text", "", "*a*"] * 80
    assert drawn("> ```\n" + "".join(f"> {line}\n" for line in lines) + "> ```") == [
        f"▌   {line}".rstrip() for line in lines
    ]


def test_what_is_finished_is_not_drawn_again() -> None:
    text = "# Title\n\npara\n\n```python\n" + "x = 1\n\ndef f():\n    return 2\n\n" * 40
    blocks = Blocks()
    blocks.set(text)
    before = blocks.lines(80, LOOK)
    blocks.set(text + "more = 3\n")
    after = blocks.lines(80, LOOK)
    assert [line is other for line, other in zip(before[:150], after, strict=False)] == [True] * 150
    assert after[-1].text == "  more = 3"
    assert blocks.lines(80, LOOK)[-1] is after[-1]


@pytest.mark.parametrize("line", ["x = 1\n\ndef f():\n    return 'a' * 2\n\n", "    return 1\n", "y" * 300 + "\n"])
def test_code_that_grows_long_is_all_there(line: str) -> None:
    text = "- a\n\n  ```python\n  " + line.replace("\n", "\n  ") * (2_500 // len(line))
    growing, whole = Blocks(), Blocks()
    for end in range(0, len(text) + 19, 19):
        growing.set(text[:end])
        growing.lines(80, LOOK)
    whole.set(text)
    assert texts_of(growing.lines(80, LOOK)) == texts_of(whole.lines(80, LOOK))


def test_a_paragraph_is_finished_by_a_blank_line() -> None:
    blocks = Blocks()
    blocks.set("one\n\ntwo\n\nthree")
    before = blocks.lines(80, LOOK)
    blocks.set("one\n\ntwo\n\nthree and more")
    after = blocks.lines(80, LOOK)
    assert before[0] is after[0] and before[2] is after[2]
    assert after[4].text == "three and more"


def test_code_that_is_finished_has_the_colours_of_the_whole() -> None:
    text = (
        '```python\ndef f():\n    """One\n\nand more\n\n' + "x = 1 if True else None\n\n" * 60 + '"""\n    return 1\n'
    )
    growing, whole = Blocks(), Blocks()
    for end in range(0, len(text), 50):
        growing.set(text[:end])
        growing.lines(80, LOOK)
    for blocks in (growing, whole):
        blocks.set(text + "```\n")
    assert growing.lines(80, LOOK) == whole.lines(80, LOOK)


def test_another_look_or_width_draws_everything_anew() -> None:
    blocks = Blocks()
    blocks.set("# Title\n\n" + "word " * 30 + "\n\n```python\nx\n```\n")
    wide, light = blocks.lines(100, LOOK), make_look(theme=1)
    assert len(blocks.lines(40, LOOK)) > len(wide)
    assert blocks.lines(100, LOOK) == wide
    assert next(iter(blocks.lines(100, light)[0])).style == light.heading


def test_nothing_heavy_is_imported_before_something_is_drawn() -> None:
    code = (
        "import sys; import textual.strip; had = set(sys.modules); import kheish.tui.blocks, kheish.tui.diff; "
        "print(*(set(sys.modules) - had))"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name.split(".")[0] for name in made.stdout.split()}.isdisjoint(
        {"pygments", "markdown_it", "difflib", "mdurl"}
    )
    assert "rich.markdown" not in made.stdout and "rich.syntax" not in made.stdout
