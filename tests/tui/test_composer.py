"""The composer: what its keys do, what it remembers and completes, and what of it reaches the screen."""

from __future__ import annotations

import base64
import contextlib
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual._xterm_parser import XTermParser
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.keys import _character_to_key
from textual.pilot import Pilot
from textual.widgets import Static

from kheish.limits import MIB
from kheish.tui import files, fuzzy, history, shell
from kheish.tui.actions import bindings
from kheish.tui.app import KheishApp
from kheish.tui.history import History, Written
from kheish.tui.look import THEMES
from kheish.tui.widgets.composer import EMPTIED_S, TWICE_S, Composer
from tests.daemon_process import DaemonProcess, text
from tests.tui.harness import check_picture, open_app, shown, until

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)


class Host(App[None]):
    """A screen with a composer on it, and what the composer told it."""

    CSS = "Static { height: 1fr; }"
    BINDINGS = [*bindings("app"), Binding("tab", "app.focus_next", show=False)]

    def __init__(self, folder: Path, session_id: str = "s", *, vim: bool = False) -> None:
        super().__init__()
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = THEMES[0].name
        self.cwd = folder / "work"
        self.cwd.mkdir(exist_ok=True)
        self.told: list[Any] = []
        self.done: list[str] = []
        self.composer = Composer(session_id, str(self.cwd), vim=vim, inputs=History(folder / "tui"))

    def compose(self) -> ComposeResult:
        yield Static("what was said")
        yield self.composer

    def on_mount(self) -> None:
        self.composer.focus()

    def on_composer_submitted(self, message: Composer.Submitted) -> None:
        self.told.append(message)

    def on_composer_left(self) -> None:
        self.told.append("left")

    def on_composer_interrupted(self) -> None:
        self.told.append("interrupted")

    def action_inbox(self) -> None:
        self.done.append("inbox")

    @property
    def sent(self) -> list[tuple[str, str]]:
        return [(message.how, message.text) for message in self.told if isinstance(message, Composer.Submitted)]

    @property
    def choices(self) -> list[str]:
        return [choice.name for choice in self.composer.completion.choices]

    def paste(self, text: str) -> None:
        self.composer.post_message(events.Paste(text))


Opened = tuple[Host, Pilot[None]]


@contextlib.asynccontextmanager
async def opened(folder: Path, session_id: str = "s", *, vim: bool = False) -> AsyncIterator[Opened]:
    app = Host(folder, session_id, vim=vim)
    async with app.run_test(size=(80, 24)) as pilot:
        await app.workers.wait_for_complete()
        await pilot.pause()
        yield app, pilot


async def type_in(pilot: Pilot[None], text: str, *keys: str) -> None:
    await pilot.press(*text, *keys)
    await pilot.pause()


# -- keys -----------------------------------------------------------------------------------------------------------


async def test_enter_sends_and_ctrl_enter_or_ctrl_s_steers(tmp_path: Path) -> None:
    async with opened(tmp_path) as (app, pilot):
        await type_in(pilot, "one", "enter")
        await type_in(pilot, "two", "ctrl+enter")
        await type_in(pilot, "three", "ctrl+s")
        assert app.sent == [("queue", "one"), ("steer", "two"), ("steer", "three")]
        assert app.composer.text == ""
        await type_in(pilot, "  ", "enter")
        assert len(app.sent) == 3, "blanks are nothing"


@pytest.mark.parametrize("key", ["shift+enter", "ctrl+j", "alt+enter", "backslash,enter"])
async def test_a_new_line_is_begun_without_sending(tmp_path: Path, key: str) -> None:
    async with opened(tmp_path) as (app, pilot):
        await type_in(pilot, "one", *key.split(","))
        await type_in(pilot, "two", "enter")
        assert app.sent == [("queue", "one\ntwo")]


def test_alt_enter_is_a_new_line_also_where_the_terminal_has_no_kitty_protocol() -> None:
    (key,) = XTermParser().feed("\x1b\r")
    assert isinstance(key, events.Key) and key.key == "ctrl+j"


async def test_what_is_typed_fast_keeps_its_order(tmp_path: Path) -> None:
    async with opened(tmp_path) as (app, pilot):
        for key in ("a", "x", "backspace", "enter", "b", "ctrl+j", "c", "enter", "d"):
            app.post_message(events.Key(key, key if len(key) == 1 else None))
        await until(pilot, lambda: app.composer.text == "d")  # type: ignore[arg-type]
        assert app.sent == [("queue", "a"), ("queue", "b\nc")]


async def test_left_goes_back_only_where_nothing_is_written(tmp_path: Path) -> None:
    async with opened(tmp_path) as (app, pilot):
        await type_in(pilot, "ab", "left", "left", "left")
        assert app.told == [] and app.composer.cursor_location == (0, 0)
        await type_in(pilot, "", "delete", "delete")
        app.composer._emptied_at_s -= 2 * EMPTIED_S
        await type_in(pilot, "", "left")
        assert app.told == ["left"]


async def test_left_asks_first_where_what_was_written_has_just_been_deleted(tmp_path: Path) -> None:
    async with opened(tmp_path) as (app, pilot):
        await type_in(pilot, "a", "backspace", "left")
        assert app.told == [] and "once more" in " ".join(n.message for n in app._notifications)
        await type_in(pilot, "", "left")
        assert app.told == ["left"]
        app.told.clear()
        await type_in(pilot, "sent", "enter", "left")
        assert app.told[1:] == ["left"], "nothing was deleted"


async def test_escape_twice_interrupts_and_once_does_not(tmp_path: Path) -> None:
    async with opened(tmp_path) as (app, pilot):
        await type_in(pilot, "text", "escape")
        app.composer._escaped_at_s -= 2 * TWICE_S
        await type_in(pilot, "", "escape")
        assert app.told == [], "too late to be one gesture"
        app.composer._escaped_at_s = float("-inf")
        await type_in(pilot, "", "escape", "escape", "escape")
        assert app.told == ["interrupted"], "the third one begins anew"
        assert app.composer.text == "text"


async def test_it_grows_with_the_text_from_one_line_to_ten(tmp_path: Path) -> None:
    async with opened(tmp_path) as (app, pilot):
        heights = []
        for _ in range(12):
            heights.append(app.composer.content_size.height)
            await type_in(pilot, "x", "ctrl+j")
        assert heights == [*range(1, 11), 10, 10]


async def test_keys_are_rebound_by_the_names_of_the_table(tmp_path: Path) -> None:
    async with opened(tmp_path) as (app, pilot):
        app.set_keymap({"session.queue": "ctrl+g", "session.newline": "enter", "session.back": "ctrl+b"})
        await type_in(pilot, "one", "enter")
        await type_in(pilot, "two", "left", "left", "X", "ctrl+g")
        assert app.sent == [("queue", "one\ntXwo")]


# -- the shell ------------------------------------------------------------------------------------------------------


async def test_a_line_that_begins_with_an_exclamation_mark_is_a_command_and_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path) as (app, pilot):
        await type_in(pilot, "!ls -l")
        app.composer.hint = "Enter sends"
        await pilot.pause()
        check_picture(app, "composer_shell")  # type: ignore[arg-type]
        await type_in(pilot, "", "enter")
        await type_in(pilot, "! make ", "ctrl+s")
        await type_in(pilot, "wow!", "enter")
        await type_in(pilot, "!", "enter")
        assert app.sent == [("shell", "ls -l"), ("shell", "make"), ("queue", "wow!")]


@pytest.mark.parametrize(
    ("command", "target"),
    [
        ("cd", ""),
        ("cd src", "src"),
        ("cd 'my src'", "my src"),
        ("cd ..", ".."),
        ("cd a b", None),
        ("cd -", None),
        ("cd src && make", None),
        ("cd $HOME", None),
        ("cd 'open", None),
        ("cdrom", None),
        ("echo cd", None),
    ],
)
def test_only_a_cd_alone_is_remembered(command: str, target: str | None) -> None:
    assert shell.target_of(command) == target


async def test_a_cd_goes_before_the_commands_that_follow_until_the_next(tmp_path: Path) -> None:
    async with opened(tmp_path) as (app, pilot):
        (app.cwd / "my src" / "deep").mkdir(parents=True)
        below = app.cwd / "my src"

        async def run(line: str) -> None:
            app.composer.load(line)
            await type_in(pilot, "", "enter")
            await app.workers.wait_for_complete()

        await run("!cd 'my src'")
        await type_in(pilot, "!make")
        assert "shell in my src: runs with bash" in shown(app)
        await type_in(pilot, "", "enter")
        await run("!cd deep")
        await run("!cd nowhere")
        await run("!pwd")
        await run(f"!cd {tmp_path}")
        await run("!pwd")
        await run("!cd work")
        await run("!pwd")
        await run("!cd /")
        await run("!cd")
        await run("!pwd")
        assert app.sent == [
            ("shell", f"cd '{below}' || exit\nmake"),
            ("shell", f"cd '{below}/deep' || exit\npwd"),
            ("shell", f"cd {tmp_path} || exit\npwd"),
            ("shell", "pwd"),
            ("shell", "pwd"),
        ]
        assert "there is no such directory" in " ".join(n.message for n in app._notifications)


# -- earlier inputs and drafts --------------------------------------------------------------------------------------


async def test_up_and_down_go_through_earlier_inputs_and_back_to_the_unsent_text(tmp_path: Path) -> None:
    async with opened(tmp_path) as (app, pilot):
        for text in ("first", "second", "second"):
            await type_in(pilot, text, "enter")
        await type_in(pilot, "unsent")
        seen = []
        for key in ("up", "up", "up", "down", "down", "down"):
            await type_in(pilot, "", key)
            seen.append(app.composer.text)
        assert seen == ["second", "first", "first", "second", "unsent", "unsent"]


async def test_the_arrows_stay_within_a_text_of_several_lines_until_its_edge(tmp_path: Path) -> None:
    async with opened(tmp_path) as (app, pilot):
        await type_in(pilot, "before", "enter")
        await type_in(pilot, "one", "ctrl+j", "t", "w", "o", "up")
        assert app.composer.text == "one\ntwo"
        await type_in(pilot, "", "up")
        assert app.composer.text == "before"
        app.composer.load("X" * 100)
        await type_in(pilot, "", "up")
        assert app.composer.text == "X" * 100, "a wrapped line has more than one row"


async def test_inputs_of_this_session_and_directory_are_gone_through_and_all_are_searched(tmp_path: Path) -> None:
    inputs = History(tmp_path / "tui")
    here = str(tmp_path / "work")
    for written, session_id, cwd in (("mine", "s", "/a"), ("near", "t", here), ("deploy far", "u", "/b")):
        inputs.write(Written(written, session_id=session_id, cwd=cwd))
    async with opened(tmp_path) as (app, pilot):
        await type_in(pilot, "", "up")
        assert app.composer.text == "near"
        await type_in(pilot, "", "up", "up")
        assert app.composer.text == "mine"
        app.composer.load("")
        app.composer.action_search()
        await pilot.pause()
        assert app.choices == ["deploy far", "near", "mine"]
        await type_in(pilot, "far dep")
        assert app.choices == ["deploy far"]
        await type_in(pilot, "", "enter")
        assert (app.composer.text, app.choices, app.sent) == ("deploy far", [], [])


@pytest.mark.parametrize("keys", ["escape", "enter"])
async def test_a_search_that_is_left_gives_the_unsent_text_back(tmp_path: Path, keys: str) -> None:
    async with opened(tmp_path) as (app, pilot):
        await type_in(pilot, "sent", "enter")
        await type_in(pilot, "unsent")
        app.composer.action_search()
        await type_in(pilot, "nothing like it", keys)
        assert app.composer.text == "unsent" and app.sent == [("queue", "sent")]


async def test_what_was_not_sent_is_there_in_the_next_life_each_session_its_own(tmp_path: Path) -> None:
    async with opened(tmp_path, "one") as (app, pilot):
        await type_in(pilot, "for one ")
        app.paste("line\n" * 20)
        await pilot.pause()
    async with opened(tmp_path, "two") as (app, _):
        assert app.composer.text == ""
    async with opened(tmp_path, "one") as (app, pilot):
        assert app.composer.text == "for one [pasted 20 lines #1]"
        await type_in(pilot, "", "enter")
        assert app.sent == [("queue", "for one " + ("line\n" * 20).strip())]
    async with opened(tmp_path, "one") as (app, pilot):
        assert app.composer.text == "", "it was sent"
        await type_in(pilot, "", "up")
        assert app.composer.text == "for one [pasted 20 lines #1]"


async def test_a_draft_survives_a_death(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kheish.tui.widgets.composer.DRAFT_DELAY_S", 0.01)
    async with opened(tmp_path) as (app, pilot):
        await type_in(pilot, "half a thought")
        draft = History(tmp_path / "tui")
        await until(pilot, lambda: draft.draft("s") == Written("half a thought", {}, "s", str(app.cwd)))  # type: ignore[arg-type]
        await type_in(pilot, "", "enter")
        await until(pilot, lambda: draft.draft("s") is None)  # type: ignore[arg-type]


async def test_what_could_not_be_handed_in_is_given_back_where_nothing_else_was_written(tmp_path: Path) -> None:
    async with opened(tmp_path) as (app, pilot):
        app.paste("line\n" * 20)
        await type_in(pilot, " please", "enter")
        app.composer.restore(app.told[0])
        assert app.composer.text == "[pasted 20 lines #1] please"
        await type_in(pilot, "", "enter")
        assert app.sent[0] == app.sent[1]
        await type_in(pilot, "something else")
        app.composer.restore(app.told[0])
        assert app.composer.text == "something else"


def test_the_files_are_private(tmp_path: Path) -> None:
    inputs = History(tmp_path / "tui")
    inputs.write(Written("one", session_id="s"))
    inputs.keep_draft("s", Written("draft"))
    for path in (tmp_path / "tui", *(tmp_path / "tui").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_what_is_torn_in_the_file_is_passed_over_and_joins_nothing(tmp_path: Path) -> None:
    inputs, file = History(tmp_path / "tui"), tmp_path / "tui" / "history.jsonl"
    inputs.write(Written("before", session_id="s"))
    with file.open("ab") as raw:
        raw.write(b'{"text":"torn')
    inputs.load()
    inputs.write(Written("after", session_id="s"))
    again = History(tmp_path / "tui")
    again.load()
    assert [one.text for one in again.earlier("s", "")] == ["before", "after"]


def test_the_file_is_bounded_and_the_newest_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "INPUTS_KEPT", 10)
    inputs = History(tmp_path / "tui")
    for number in range(21):
        inputs.write(Written(f"input {number}", session_id="s"))
    inputs.write(Written("x" * history.INPUT_BYTES_MAX, session_id="s"))
    inputs.load()
    assert [one.text for one in inputs.earlier("s", "")] == [f"input {number}" for number in range(11, 21)]
    assert len((tmp_path / "tui" / "history.jsonl").read_bytes().splitlines()) == 10


def test_a_place_that_cannot_be_written_costs_the_memory_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "tui").write_text("a file")
    inputs = History(tmp_path / "tui")
    inputs.load()
    inputs.remember(Written("one", session_id="s"))
    inputs.write(Written("one", session_id="s"))
    inputs.keep_draft("s", Written("two"))
    assert inputs.draft("s") is None
    assert [one.text for one in inputs.earlier("s", "")] == ["one"]


# -- completion -----------------------------------------------------------------------------------------------------


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A repository with files of every sort."""
    folder = tmp_path / "work"
    for name in ("src/main.py", "src/deep/composer.py", "docs/read me.md", "built/out.bin", "README.md"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (folder / ".gitignore").write_text("built/\n")
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    subprocess.run(["git", "-C", str(folder), "add", "src/main.py"], check=True)
    return folder


async def test_an_at_sign_completes_files_and_folders(tmp_path: Path, work: Path) -> None:
    async with opened(tmp_path) as (app, pilot):
        await type_in(pilot, "see @comp")
        await until(pilot, lambda: app.choices == ["src/deep/composer.py"])  # type: ignore[arg-type]
        await type_in(pilot, "", "tab")
        assert app.composer.text == "see @src/deep/composer.py "
        assert not app.composer.completion.is_open
        await type_in(pilot, "@read")
        await until(pilot, lambda: "docs/read me.md" in app.choices)  # type: ignore[arg-type]
        check_picture(app, "composer_files")  # type: ignore[arg-type]
        await type_in(pilot, "", *["down"] * app.choices.index("docs/read me.md"), "enter")
        assert app.composer.text == 'see @src/deep/composer.py @"docs/read me.md" '
        await type_in(pilot, "", "enter")
        assert app.sent == [("queue", 'see @src/deep/composer.py @"docs/read me.md"')]


async def test_one_goes_on_within_a_folder_that_was_taken(tmp_path: Path, work: Path) -> None:
    async with opened(tmp_path) as (app, pilot):
        await type_in(pilot, "@src")
        await until(pilot, lambda: app.choices[:1] == ["src/"])  # type: ignore[arg-type]
        await type_in(pilot, "", "enter")
        await until(pilot, lambda: "src/main.py" in app.choices)  # type: ignore[arg-type]
        assert app.composer.text == "@src/"
        await type_in(pilot, "main.py")
        await until(pilot, lambda: app.choices == ["src/main.py"])  # type: ignore[arg-type]
        await type_in(pilot, "", "enter")
        assert app.sent == [("queue", "@src/main.py")], "what is whole is sent at once"


async def test_escape_closes_the_list_until_something_else_is_completed(tmp_path: Path, work: Path) -> None:
    async with opened(tmp_path) as (app, pilot):
        await type_in(pilot, "@ma")
        await until(pilot, lambda: app.choices)  # type: ignore[arg-type]
        await type_in(pilot, "", "escape")
        await type_in(pilot, "in")
        await app.workers.wait_for_complete()
        assert (app.choices, app.told) == ([], [])
        await type_in(pilot, " @ma")
        await until(pilot, lambda: app.choices)  # type: ignore[arg-type]


async def test_an_address_is_no_mention(tmp_path: Path, work: Path) -> None:
    async with opened(tmp_path) as (app, pilot):
        await type_in(pilot, "me@main")
        await app.workers.wait_for_complete()
        assert app.choices == []


async def test_a_click_takes_a_choice(tmp_path: Path, work: Path) -> None:
    async with opened(tmp_path) as (app, pilot):
        await type_in(pilot, "@m")
        await until(pilot, lambda: "src/main.py" in app.choices)  # type: ignore[arg-type]
        await app.workers.wait_for_complete()
        await pilot.pause()
        at = app.choices.index("src/main.py")
        await pilot.click(app.composer.completion, offset=(3, at))
        await pilot.pause()
        assert app.composer.text == "@src/main.py " and app.composer.has_focus


async def test_a_slash_completes_and_runs_the_actions_that_are_valid_now(tmp_path: Path) -> None:
    async with opened(tmp_path) as (app, pilot):
        await type_in(pilot, "/inb")
        assert app.choices == ["/inbox"]
        await type_in(pilot, "", "enter")
        assert (app.done, app.composer.text, app.sent) == (["inbox"], "", [])
        await type_in(pilot, "/etc/hosts is wrong", "enter")
        assert app.sent == [("queue", "/etc/hosts is wrong")], "a path is a text"


def test_files_are_listed_without_what_is_ignored_or_of_no_interest(work: Path) -> None:
    mine = ["README.md", "docs/read me.md", "src/deep/composer.py", "src/main.py"]
    assert files.list_files(str(work)) == sorted(
        [".gitignore", *mine, "docs/", "src/", "src/deep/"], key=lambda name: (name.count("/"), name)
    )
    assert files.list_files(str(work / "src")) == ["main.py", "deep/", "deep/composer.py"]
    (work / ".git").rename(work / "node_modules")
    assert "built/out.bin" in files.list_files(str(work)), "no repository, no ignored files"
    assert not [name for name in files.list_files(str(work)) if "node_modules" in name]
    assert files.list_files(str(work / "gone")) == []


@pytest.mark.parametrize(
    ("query", "names", "expected"),
    [
        ("main", ["domain.py", "main.py", "maintain.py"], ["main.py", "maintain.py", "domain.py"]),
        ("mp", ["map.py", "src/main.py", "x/my_parts"], ["map.py", "x/my_parts", "src/main.py"]),
        ("README", ["readme.md", "docs/readme/a"], ["readme.md", "docs/readme/a"]),
        (
            "comp",
            ["tests/test_comp.py", "a/very/long/path/to/composer.py"],
            ["a/very/long/path/to/composer.py", "tests/test_comp.py"],
        ),
        ("xyz", ["zyx"], []),
        ("", ["bb", "a", "cc"], ["bb", "a", "cc"]),
        ("a.py", ["a.py.orig", "lib/a.py"], ["lib/a.py", "a.py.orig"]),
    ],
)
def test_a_few_letters_find_what_they_mean_best_first(query: str, names: list[str], expected: list[str]) -> None:
    assert fuzzy.best(query, names, 10) == expected


# -- pasting --------------------------------------------------------------------------------------------------------


async def test_a_long_paste_is_one_thing_that_is_sent_whole(tmp_path: Path) -> None:
    async with opened(tmp_path) as (app, pilot):
        app.paste("\r\n".join(str(n) for n in range(132)))
        app.paste(" " + "w" * 1_001)
        app.paste("\nshort\x1b[31m and clean")
        await pilot.pause()
        assert app.composer.text == "[pasted 132 lines #1][pasted 1002 characters #2]\nshort and clean"
        await type_in(pilot, "", "enter")
        lines = "\n".join(str(n) for n in range(132))
        assert app.sent == [("queue", f"{lines} {'w' * 1_001}\nshort and clean")]


async def test_what_stands_in_a_paste_is_a_text_and_neither_a_placeholder_nor_a_command(tmp_path: Path) -> None:
    async with opened(tmp_path) as (app, pilot):
        first, second = "!rm -rf .\n[pasted 12 lines #2]\n" + "a\n" * 12, "b\n" * 12
        app.paste(first)
        app.paste(second)
        await type_in(pilot, "", "enter")
        assert app.sent == [("queue", (first + second).strip())]


@pytest.mark.parametrize("key", ["backspace", "ctrl+w", "home,delete", "ctrl+u"])
async def test_a_placeholder_is_deleted_as_one(tmp_path: Path, key: str) -> None:
    async with opened(tmp_path) as (app, pilot):
        app.paste("line\n" * 20)
        await pilot.pause()
        await type_in(pilot, "", *key.split(","))
        assert app.composer.text == ""
        await type_in(pilot, "", "ctrl+underscore", "enter")
        assert app.sent == [("queue", ("line\n" * 20).strip())], "and brought back whole"


async def test_the_cursor_passes_over_a_placeholder_as_over_a_letter(tmp_path: Path) -> None:
    async with opened(tmp_path) as (app, pilot):
        await type_in(pilot, "a")
        app.paste("line\n" * 20)
        await type_in(pilot, "b", "left", "left", "X", "right", "Y")
        assert app.composer.text == "aX[pasted 20 lines #1]Yb"


@pytest.mark.parametrize("form", ["{}", "'{}'", '"{}"', "file://{}", "{} \n"])
async def test_the_path_of_an_image_becomes_an_attachment(tmp_path: Path, form: str) -> None:
    image = tmp_path / "my shot[1].png"
    image.write_bytes(PNG)
    async with opened(tmp_path) as (app, pilot):
        await type_in(pilot, "look: ")
        app.paste(form.format(str(image).replace(" ", "%20") if "file" in form else image))
        await until(pilot, lambda: "#1" in app.composer.text)  # type: ignore[arg-type]
        await type_in(pilot, "", "enter")
        (message,) = app.told
        assert message.text == "look: [image my shot(1).png #1]"
        content = base64.b64encode(PNG).decode()
        assert message.attachments == [{"file_name": image.name, "media_type": "image/png", "content_base64": content}]


async def test_an_image_that_was_deleted_again_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "a.webp").write_bytes(PNG)
    async with opened(tmp_path) as (app, pilot):
        app.paste(str(tmp_path / "a.webp"))
        await until(pilot, lambda: "#1" in app.composer.text)  # type: ignore[arg-type]
        await type_in(pilot, "", "backspace")
        await type_in(pilot, "nothing", "enter")
        assert app.told[0].attachments == []


async def test_an_image_that_is_too_large_is_refused_with_the_reason_and_its_path_stays(tmp_path: Path) -> None:
    (tmp_path / "big.png").write_bytes(PNG + bytes(files.IMAGE_BYTES_MAX))
    async with opened(tmp_path) as (app, pilot):
        app.paste(str(tmp_path / "big.png"))
        await until(pilot, lambda: app.composer.text)  # type: ignore[arg-type]
        assert app.composer.text == str(tmp_path / "big.png")
        await until(pilot, lambda: len(app._notifications))  # type: ignore[arg-type]
        (said,) = [notice.message for notice in app._notifications]
        assert said.startswith("cannot attach big.png: it is over 2.8 MiB")


async def test_a_paste_that_only_looks_like_an_image_is_a_text(tmp_path: Path) -> None:
    async with opened(tmp_path) as (app, pilot):
        app.paste("no such thing.png")
        await until(pilot, lambda: app.composer.text == "no such thing.png")  # type: ignore[arg-type]


async def test_what_no_request_can_carry_is_not_sent_and_not_lost(tmp_path: Path) -> None:
    async with opened(tmp_path) as (app, pilot):
        app.paste("x" * (MIB + 1))
        await type_in(pilot, "", "enter")
        assert app.sent == [] and app.composer.text.startswith("[pasted 1048577 characters")


# -- the person's own editor ----------------------------------------------------------------------------------------


async def test_the_editor_gets_the_whole_text_and_what_it_leaves_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = tmp_path / "editor.py"
    editor.write_text(
        "import sys, pathlib\np = pathlib.Path(sys.argv[-1])\np.write_text(p.read_text().upper() + '!\\n')"
    )
    monkeypatch.setenv("EDITOR", f"{sys.executable} '{editor}' --wait")
    monkeypatch.delenv("VISUAL", raising=False)
    async with opened(tmp_path) as (app, pilot):
        monkeypatch.setattr(app, "suspend", contextlib.nullcontext)
        await type_in(pilot, "see ")
        app.paste("line\n" * 11)
        await pilot.pause()
        await type_in(pilot, "", "ctrl+o")
        assert app.composer.text == "SEE " + "LINE\n" * 11 + "!"


@pytest.mark.parametrize("editor", ["/no/such/editor", "false", "unclosed 'quote"])
async def test_an_editor_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, editor: str
) -> None:
    monkeypatch.setenv("VISUAL", editor)
    async with opened(tmp_path) as (app, pilot):
        monkeypatch.setattr(app, "suspend", contextlib.nullcontext)
        await type_in(pilot, "text", "ctrl+o")
        assert app.composer.text == "text"
        (said,) = [notice.message for notice in app._notifications]
        assert said.startswith("cannot use the editor")


# -- vim ------------------------------------------------------------------------------------------------------------


VIM = [
    ("one two", "bx", "one wo"),
    ("one two", "0x", "ne two"),
    ("one two", "0dw", "two"),
    ("one two", "0cwsix", "six two"),
    ("one two", "0wD", "one "),
    ("one two", "0ea!", "one! two"),
    ("one two", "0wCfour", "one four"),
    ("one two", "0lli-", "on-e two"),
    ("one two", "$hi-", "one t-wo"),
    ("one two", "I>", ">one two"),
    ("one two", "bhA.", "one two."),
    ("one", "onew", "one\nnew"),
    ("one", "Onew", "new\none"),
    ("one|two|six", "kdd", "one\nsix"),
    ("one|two|six", "dd", "one\ntwo"),
    ("one|two|six", "ggddGp", "two\nsix\none"),
    ("one|two|six", "ggdj", "six"),
    ("one|two|six", "dgg", ""),
    ("one|two|six", "kccnew", "one\nnew\nsix"),
    ("one two", "0xp", "noe two"),
    ("one two", "0xxu", "ne two"),
    ("a.b", "0wx", "ab"),
    ("one two", "0qx", "ne two"),
    ("one two", "0dqx", "ne two"),
    ("", "xddp", "\n"),
]


async def test_normal_mode_moves_and_edits_as_vim_does(tmp_path: Path) -> None:
    async with opened(tmp_path, vim=True) as (app, pilot):
        found = []
        for before, keys, _ in VIM:
            app.composer.load(before.replace("|", "\n"))
            for key in ("escape", *keys, "escape"):
                is_letter = len(key) == 1
                app.post_message(events.Key(_character_to_key(key) if is_letter else key, key if is_letter else None))
            await pilot.pause()
            found.append((before, keys, app.composer.text))
        assert found == VIM


async def test_vim_says_its_mode_and_still_sends_and_interrupts(tmp_path: Path) -> None:
    async with opened(tmp_path, vim=True) as (app, pilot):
        assert str(app.composer.border_title) == "INSERT"
        await type_in(pilot, "text", "escape", "escape", "d")
        assert str(app.composer.border_title) == "NORMAL d"
        assert app.told == [], "the first escape left INSERT"
        await type_in(pilot, "", "escape", "escape")
        assert app.told == ["interrupted"]
        await type_in(pilot, "", "enter")
        assert app.sent == [("queue", "text")]


# -- in a session's screen, with a real daemon ----------------------------------------------------------------------


def composer_of(app: KheishApp) -> Composer:
    return app.screen.query_one(Composer)


@pytest.mark.slow
async def test_a_shell_line_becomes_a_durable_run_under_the_permissions(shared_daemon: DaemonProcess) -> None:
    session = shared_daemon.session("by-hand")
    async with open_app(shared_daemon, session_id=session) as (app, pilot):
        await until(pilot, lambda: app.screen.query(Composer) and composer_of(app).has_focus)
        await pilot.press(*"!echo typed > typed", "enter")
        await until(pilot, lambda: shared_daemon.client.approvals.list())
        (request,) = shared_daemon.client.approvals.list()
        assert (request["tool"], request["input"]) == ("bash", {"command": "echo typed > typed"})
        shared_daemon.client.approvals.allow(request["request_id"])
        await until(pilot, lambda: app.board.rows[session].last_status == "completed")
    assert (shared_daemon.work / "typed").read_text() == "typed\n"


@pytest.mark.slow
async def test_an_image_reaches_the_daemon_as_it_is_also_the_largest(shared_daemon: DaemonProcess) -> None:
    image = shared_daemon.work / "big.png"
    image.write_bytes(PNG + bytes(files.IMAGE_BYTES_MAX - len(PNG)))
    session = shared_daemon.session("pictures")
    model = shared_daemon.script(text("nice"), after_last="repeat")
    assert model == "scripted/script.json"
    async with open_app(shared_daemon, session_id=session) as (app, pilot):
        await until(pilot, lambda: app.screen.query(Composer) and composer_of(app).has_focus)
        composer_of(app).post_message(events.Paste(str(image)))
        await until(pilot, lambda: "#1" in composer_of(app).text)
        await pilot.press("enter")
        await until(pilot, lambda: shared_daemon.client.runs.list(session_id=session))
        (run,) = shared_daemon.client.runs.list(session_id=session)
        await until(pilot, lambda: "nice" in shown(app))
    (attachment,) = run["input_attachments"]
    assert (attachment["name"], attachment["bytes"]) == ("big.png", files.IMAGE_BYTES_MAX)
