"""The editor plugins that are shipped, in the editors they are for, with a daemon that dies."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kheish.api.endpoints import ENDPOINTS
from kheish.api.router import parse_body
from kheish.client.launch import is_up
from tests.daemon_process import DaemonProcess, Json, bash, calls, text, tool
from tests.e2e.cli_process import stop_for_good
from tests.e2e.terminal import Terminal

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "share" / "examples"
TIMEOUT_S = 10.0
SLOW_MS, QUICK_MS = 100, 10
TALE = [f"word{number} " for number in range(20)]
ESCAPES = "\x1b[2J\x1b]0;owned\x07\u202e\u200b\U000e0041"
HOSTILE = f"{ESCAPES}|:!touch owned\n:!touch owned\n`touch owned` $(bell) [link](command:quit)\nvim: set fdm=expr :"
INERT = r"\u001b[2J\u001b]0;owned\u0007\u202e\u200b\ue0041"

UNSEEN = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202e\U000e0041]"
TRACE = r"\bE\d+:|traceback|unhandled"


def asking(*questions: Json) -> Json:
    return calls(tool("ask_user_question", questions=[*questions]))


WHERE = {"question": f"Where to?{ESCAPES}", "options": [{"label": "Canary $(bell)"}, {"label": "Everywhere"}]}
WHEN = {"question": "When?", "options": [{"label": "Now"}, {"label": "Later"}]}


def replies(pace_ms: int) -> list[Json]:
    return [
        {"when": "A human denied this call", "text": "Understood."},
        {"when": "-> Canary", "text": "I take the canary."},
        {"when": "-> ", "text": "I take what you said."},
        {"when": "released", "text": "Released."},
        {"when": "tell the tale", "deltas": TALE, "pace_ms": pace_ms},
        {"when": "hang", "text": "never", "hang": 99},
        {"when": "ask where", **asking(WHERE)},
        {"when": "ask both", **asking(WHERE, WHEN)},
        {"when": "work on", **bash("touch begun; sleep 60")},
        {"when": "release it", **bash("echo released | tee -a release.log")},
        {"when": "be hostile", **calls(tool("bash", command=f"echo released\n{HOSTILE}"), text=HOSTILE)},
        text("Noted."),
    ]


def set_pace(machine: DaemonProcess, pace_ms: int) -> None:
    """Of what the next model call says: slow, so that something can happen meanwhile, or quick."""
    machine.script(*replies(pace_ms), after_last="repeat")


class Editor:
    """What a person does and sees, in any of the editors, in a directory of its own."""

    name = ""

    def __init__(self, machine: DaemonProcess, folder: Path, has_kheish: bool) -> None:
        self.machine = machine
        self.folder = folder
        self.cwd = machine.work / folder.name
        self.cwd.mkdir()
        self.options = ["--model", "scripted/script.json"]
        self.calls = folder / "calls"
        self.calls.touch()
        self.program = folder / "bin" / "kheish"
        self.program.parent.mkdir()
        if has_kheish:
            real = Path(sys.executable).with_name("kheish")
            self.program.write_text(f'#!/bin/sh\necho "$*" >> {self.calls}\nexec {real} "$@"\n')
            self.program.chmod(0o755)
        self.env = {**machine.env, "PATH": f"{self.program.parent}{os.pathsep}{os.environ['PATH']}"}

    # A person's part.

    def submit(self, words: str, selected: str = "") -> None:
        raise NotImplementedError

    def interrupt(self) -> None:
        raise NotImplementedError

    def look(self) -> None:
        """Asks for the inbox, and looks at what waits longest."""
        raise NotImplementedError

    def decide(self, choice: str, why: str = "") -> None:
        """About what the inbox shows."""
        raise NotImplementedError

    def answer(self, *answers: str) -> None:
        raise NotImplementedError

    def lose_stream(self) -> None:
        """So that it is given up: the daemon dies and cannot be started."""
        working = self.program.read_text()
        self.program.write_text("#!/bin/sh\necho 'kheish: cannot start it today' >&2\nexit 3\n")
        os.kill(daemon_pid(self.machine), signal.SIGKILL)
        self.until(self.messages, "start it today.*start it today")
        self.program.write_text(working)

    def close(self) -> None:
        raise NotImplementedError

    # What there is to see.

    def transcript(self) -> str:
        raise NotImplementedError

    def since(self, before: str) -> Callable[[], str]:
        """What was added to the transcript."""
        start = len(before.rstrip("\n")) + 1 if before else 0
        return lambda: self.transcript()[start:]

    def status(self) -> str:
        """The status line."""
        raise NotImplementedError

    def messages(self) -> str:
        raise NotImplementedError

    def inbox(self) -> str:
        raise NotImplementedError

    def until(self, what: Callable[[], str], pattern: str, check: Callable[[str], object] = lambda _: None) -> str:
        """What is seen, once it matches; `check` is called with each look before."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            seen = what()
            check(seen)
            if re.search(pattern, seen, re.DOTALL):
                return seen
            assert time.monotonic() < deadline, f"{pattern!r} did not come; there is:\n{seen}\n{self.messages()}"

    def facts(self, type_: str) -> list[Json]:
        """Of the session of this directory, from the journal."""
        rows = [row for row in self.machine.client.sessions.list() if row["cwd"] == str(self.cwd)]
        records = self.machine.records(rows[0]["session_id"]) if rows else []
        return [event for record in records for event in record["events"] if event["type"] == type_]


class TerminalEditor(Editor):
    """One in a pane of tmux, whose state is asked for beside what is typed."""

    def __init__(self, machine: DaemonProcess, folder: Path, has_kheish: bool) -> None:
        super().__init__(machine, folder, has_kheish)
        self.terminal = Terminal(folder, self.env, self.cwd)
        try:
            self.start()
        except BaseException:
            self.terminal.close()
            raise

    def start(self) -> None:
        raise NotImplementedError

    def evaluate(self, expression: str) -> Any:
        raise NotImplementedError

    def submit(self, words: str, selected: str = "") -> None:
        self.evaluate("win_gotoid(1000)")
        if selected:
            self.evaluate(f"setline(1, {json.dumps(['before', *selected.splitlines(), 'after'])})")
        lines = f"2,{1 + len(selected.splitlines())}" if selected else ""
        self.terminal.enter(f":{lines}Kheish {words}")

    def interrupt(self) -> None:
        self.terminal.enter(":KheishInterrupt")

    def look(self) -> None:
        self.terminal.enter(":KheishInbox")
        self.until(lambda: str(self.evaluate('bufname("%")')), "kheish://inbox")

    def decide(self, choice: str, why: str = "") -> None:
        self.evaluate('win_gotoid(bufwinid("kheish://inbox"))')
        if choice in ("allow", "deny"):
            self.terminal.press(choice[0])
        else:
            self.terminal.press("Enter")
            self.terminal.type(choice)
        if choice == "deny":
            self.terminal.type(why)
        if choice != "allow":
            self.terminal.press("Enter")

    def answer(self, *answers: str) -> None:
        self.decide(";".join(answers))

    def lines(self, name: str) -> str:
        return "\n".join(self.evaluate(f'getbufline("kheish://{name}", 1, "$")'))

    def transcript(self) -> str:
        return self.lines(str(self.cwd))

    def inbox(self) -> str:
        return self.lines("inbox")

    def messages(self) -> str:
        return str(self.evaluate('execute("messages")'))

    def close(self) -> None:
        self.terminal.close()


class Vim(TerminalEditor):
    name = "vim"

    def start(self) -> None:
        """Vim connects to this test, and answers what it is asked over that channel."""
        listener = socket.socket(socket.AF_UNIX)
        address = self.folder / "test.sock"
        listener.bind(str(address))
        listener.listen()
        listener.settimeout(TIMEOUT_S)
        vimrc = self.folder / "vimrc"
        vimrc.write_text(
            f"set nocompatible nomore cmdheight=3 laststatus=2 rtp^={EXAMPLES}/vim\n"
            "set statusline=%f\\ %{g:KheishStatus()}\n"
            f"let g:kheish_options = {json.dumps(self.options)}\n"
            f"autocmd VimEnter * let g:test = ch_open('unix:{address}', {{'mode': 'json'}})\n"
        )
        self.terminal.enter(f"vim -u {vimrc} -i NONE -n")
        self._channel, _ = listener.accept()
        self._channel.settimeout(TIMEOUT_S)
        self._reader = self._channel.makefile("rb")
        listener.close()

    def evaluate(self, expression: str) -> Any:
        self._channel.sendall(json.dumps(["expr", expression, -1]).encode())
        found = b""
        while not found.endswith(b"]\n"):
            found += self._reader.readline()
        return json.loads(found)[1]

    def lose_stream(self) -> None:
        """The command that follows it dies."""
        running = "{_, job -> job_status(job) == 'run' && job_info(job).cmd[1] == 'sessions'}"
        streams = f"job_info()->filter({running})"
        os.kill(self.evaluate(f"job_info({streams}[0]).process"), signal.SIGKILL)
        self.until(lambda: str(self.evaluate(f"len({streams})")), "0")

    def status(self) -> str:
        return str(self.evaluate("g:KheishStatus()"))

    def close(self) -> None:
        self._channel.close()
        super().close()


class Neovim(TerminalEditor):
    name = "nvim"

    def start(self) -> None:
        init = self.folder / "init.vim"
        init.write_text(
            f"set nomore cmdheight=3 laststatus=2 rtp^={EXAMPLES}/nvim\n"
            "set statusline=%f\\ %{v:lua.require'kheish'.status()}\n"
            f"lua require('kheish').options = vim.json.decode([==[{json.dumps(self.options)}]==])\n"
        )
        address = self.folder / "nvim.sock"
        self.terminal.enter(f"nvim -u {init} -i NONE -n --listen {address}")
        self.terminal.until(r"\[No Name\]")
        self._channel = socket.socket(socket.AF_UNIX)
        self._channel.settimeout(TIMEOUT_S)
        self._channel.connect(str(address))

    def evaluate(self, expression: str) -> Any:
        """Over MessagePack-RPC."""
        self._channel.sendall(msgspec.msgpack.encode([0, 1, "nvim_eval", [expression]]))
        data = b""
        while True:
            data += self._channel.recv(65536)
            with contextlib.suppress(msgspec.DecodeError):
                _, _, error, result = msgspec.msgpack.decode(data)
                assert error is None, error
                return result

    def close(self) -> None:
        self._channel.close()
        super().close()

    def status(self) -> str:
        return str(self.evaluate("luaeval(\"require'kheish'.status()\")"))


class VsCode(Editor):
    name = "node"

    def __init__(self, machine: DaemonProcess, folder: Path, has_kheish: bool) -> None:
        super().__init__(machine, folder, has_kheish)
        given = {"extension": str(EXAMPLES / "vscode"), "folder": str(self.cwd), "options": self.options}
        command = ["node", str(Path(__file__).with_name("vscode_standin.js")), json.dumps(given)]
        self.popen = subprocess.Popen(
            command, env=self.env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"
        )

    def call(self, method: str, argument: Any = None) -> Any:
        assert self.popen.stdin is not None and self.popen.stdout is not None
        self.popen.stdin.write(json.dumps([method, argument]) + "\n")
        self.popen.stdin.flush()
        return json.loads(self.popen.stdout.readline())

    def state(self, name: str) -> str:
        return str(self.call("state")[name] or "")

    def reply(self, kind: str, value: Any) -> None:
        """To the prompt of that kind that comes next: a text, or the item that says so."""
        self.until(lambda: self.state("prompt"), f"'kind': '{kind}'")
        prompt = self.call("state")["prompt"]
        # VS Code draws icons for some of these, and links.
        assert not re.search(rf"(?<!\\)\$\(|\]\(|{UNSEEN}", "\n".join(prompt["drawn"]))
        if kind == "pick" and not isinstance(value, int):
            value = prompt["labels"].index(value)
        self.call("answer", value)

    def submit(self, words: str, selected: str = "") -> None:
        self.call("select", selected)
        self.call("run", "kheish.submit")
        self.reply("input", words)

    def interrupt(self) -> None:
        self.call("run", "kheish.interrupt")

    def look(self) -> None:
        self.call("run", "kheish.decide")
        self.reply("pick", 0)
        self.until(lambda: self.state("prompt"), "Decide about|Where to|When")

    def decide(self, choice: str, why: str = "") -> None:
        self.reply("pick", choice)
        if choice == "deny":
            self.reply("input", why)

    def answer(self, *answers: str) -> None:
        for answer in answers:
            if answer.isdigit():
                self.reply("pick", int(answer) - 1)
            else:
                self.reply("pick", "In your own words ...")
                self.reply("input", answer)

    def transcript(self) -> str:
        return self.state("transcript")

    def inbox(self) -> str:
        return self.state("document")

    def messages(self) -> str:
        return "\n".join(self.call("state")["messages"])

    def status(self) -> str:
        return self.state("status")

    def close(self) -> None:
        with self.popen:
            self.popen.kill()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon that the tests kill and the editors start again."""
    made = DaemonProcess(tmp_path_factory.mktemp("editors"))
    set_pace(made, SLOW_MS)
    try:
        yield made.start()
    finally:
        stop_for_good(made)
        made.close()


def opened(
    kind: type[Editor], machine: DaemonProcess, folders: pytest.TempPathFactory, has_kheish: bool = True
) -> Editor:
    needed = [kind.name, *(["tmux"] if issubclass(kind, TerminalEditor) else [])]
    if missing := [program for program in needed if shutil.which(program) is None]:
        pytest.skip(f"THE PLUGIN FOR {kind.__name__.upper()} IS NOT TESTED: {' and '.join(missing)} not installed")
    return kind(machine, folders.mktemp(kind.name), has_kheish)


@pytest.fixture(scope="module", params=[Vim, Neovim, VsCode])
def editor(
    request: pytest.FixtureRequest, machine: DaemonProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Editor]:
    made = opened(request.param, machine, tmp_path_factory)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def nothing_at_work_afterwards(machine: DaemonProcess) -> Iterator[None]:
    """A test that fails leaves nothing to the next."""
    yield
    if not is_up(machine.client.transport):
        machine.start()
    for session in machine.client.sessions.list():
        machine.client.sessions.interrupt(session["session_id"])


def daemon_pid(machine: DaemonProcess) -> int:
    return int(machine.client.daemon.status()["pid"])


def once(transcript: str) -> None:
    for word in TALE:
        assert transcript.count(word) <= 1, transcript


def test_what_is_submitted_is_answered_in_the_buffer_while_it_comes(editor: Editor) -> None:
    """With the selected lines as an attachment, which is data."""
    editor.submit("hello")
    editor.until(editor.transcript, "^> hello\nNoted.\n-- run completed\n*$")
    set_pace(editor.machine, SLOW_MS)
    before = editor.transcript()
    editor.submit("tell the tale", selected="one\ntwo")
    assert "completed" not in editor.until(editor.since(before), "word3 ", once)
    shown = editor.until(editor.since(before), "-- run completed", once)
    assert shown.strip("\n") == f"> tell the tale\n{''.join(TALE)}\n-- run completed"
    _, submitted = editor.facts("run.submitted")
    assert submitted["text"] == "tell the tale"
    assert [a["text"].rstrip("\n") for a in submitted["attachments"]] == ["one\ntwo"]


def test_a_killed_daemon_is_started_again_and_no_text_is_doubled_or_lost(editor: Editor) -> None:
    """Killed in the middle of an answer, of which the journal has nothing yet."""
    set_pace(editor.machine, SLOW_MS)
    before = editor.transcript()
    editor.submit("tell the tale again")
    live = editor.until(editor.since(before), "word3 ", once)
    assert "completed" not in live
    set_pace(editor.machine, QUICK_MS)
    killed = daemon_pid(editor.machine)
    os.kill(killed, signal.SIGKILL)
    shown = editor.until(editor.since(before), "-- run completed", once)
    assert shown.strip("\n") == f"> tell the tale again\n{''.join(TALE)}\n-- run completed"
    assert editor.transcript().startswith(before)
    assert daemon_pid(editor.machine) != killed
    assert len(editor.facts("run.submitted")) == len(re.findall("^> ", editor.transcript(), re.MULTILINE))


def test_a_daemon_that_was_stopped_is_waited_for_and_not_started(editor: Editor) -> None:
    set_pace(editor.machine, SLOW_MS)
    before = editor.transcript()
    editor.submit("tell the tale")
    editor.until(editor.since(before), "word3 ", once)
    set_pace(editor.machine, QUICK_MS)
    calls_before = len(editor.calls.read_text())
    assert editor.machine.cli("daemon", "stop").returncode == 0
    editor.until(editor.since(before), "^> tell the tale\n*$")
    editor.machine.start()
    shown = editor.until(editor.since(before), "-- run completed", once)
    assert shown.strip("\n") == f"> tell the tale\n{''.join(TALE)}\n-- run completed"
    assert "daemon start" not in editor.calls.read_text()[calls_before:]


def test_a_stream_that_was_given_up_is_taken_up_by_the_next_command(editor: Editor) -> None:
    before = editor.transcript()
    editor.lose_stream()
    editor.submit("hello again")
    shown = editor.until(editor.since(before), "-- run completed")
    assert shown.strip("\n") == "> hello again\nNoted.\n-- run completed"


def submit_and_look(editor: Editor, words: str) -> None:
    """At what it then asks for."""
    before = editor.transcript()
    editor.submit(words)
    editor.until(editor.since(before), "waits for you")
    editor.until(editor.status, "1")
    editor.look()


def test_what_waits_is_counted_shown_and_allowed(editor: Editor) -> None:
    submit_and_look(editor, "release it")
    shown = editor.until(editor.inbox, "echo released")
    (asked,) = editor.facts("approval.requested")[-1:]
    assert "    | command: echo released | tee -a release.log\n" in shown
    assert f"    | {editor.cwd}\n" in shown and asked["digest"][:8] in shown
    editor.decide("allow")
    editor.until(editor.transcript, "Released.\n-- run completed\n*$")
    editor.until(editor.status, "^[^0-9]*$")
    (resolved,) = editor.facts("approval.resolved")[-1:]
    assert (resolved["resolution"], resolved["digest"]) == ("allow", asked["digest"])
    assert_bound(editor, asked, resolved)
    assert (editor.cwd / "release.log").read_text() == "released\n"


def assert_bound(editor: Editor, asked: Json, resolved: Json) -> None:
    """That the editor said what it had shown: to the command, or in the request whose digest the journal keeps."""
    if "body_digest" not in resolved:
        assert f"--if-digest {asked['digest']}" in editor.calls.read_text()
        return
    (endpoint,) = [e for e in ENDPOINTS if (e.method, e.path) == ("POST", "/v1/approvals/{id}")]
    body = {"resolution": "allow", "if_digest": asked["digest"]}
    _, digest = parse_body(endpoint, {"id": asked["request_id"]}, json.dumps(body).encode())
    assert resolved["body_digest"] == digest


def test_a_denial_tells_the_model_why(editor: Editor) -> None:
    submit_and_look(editor, "release it")
    editor.decide("deny", "not on a Friday")
    editor.until(editor.transcript, "Understood.\n-- run completed\n*$")
    assert editor.facts("approval.resolved")[-1]["justification"] == "not on a Friday"


def test_a_command_that_died_with_the_daemon_is_decided_about_again(editor: Editor) -> None:
    """Nobody knows whether it took effect; the choices are others."""
    submit_and_look(editor, "work on")
    editor.decide("allow")
    editor.until(lambda: " ".join(os.listdir(editor.cwd)), "begun")
    editor.until(editor.status, "^[^0-9]*$")
    os.kill(daemon_pid(editor.machine), signal.SIGKILL)
    editor.until(editor.status, "1")
    editor.look()
    editor.until(editor.inbox, "(OUTCOME UNKNOWN|uncertain).*touch begun")
    editor.decide("verify")
    editor.until(editor.transcript, "Noted.\n-- run completed\n*$")
    assert editor.facts("approval.resolved")[-1]["resolution"] == "verify"


def test_a_question_is_answered_by_option_or_in_words(editor: Editor) -> None:
    for answers, said in ((("1",), "I take the canary."), (("the moon",), "I take what you said.")):
        submit_and_look(editor, "ask where")
        editor.until(editor.inbox, r"    \| Canary \$\(bell\).*    \| Everywhere")
        editor.answer(*answers)
        editor.until(editor.transcript, f"{re.escape(said)}\n-- run completed\n*$")
    first, second = [fact["answers"] for fact in editor.facts("question.answered")]
    assert first == [{"question_id": "1", "selected_option_ids": ["1"]}]
    assert second == [{"question_id": "1", "freeform_answer": "the moon"}]


def test_each_of_several_questions_gets_its_answer(editor: Editor) -> None:
    submit_and_look(editor, "ask both")
    editor.until(editor.inbox, "When")
    editor.answer("1", "2")
    editor.until(editor.transcript, "I take the canary.\n-- run completed\n*$")
    answers = editor.facts("question.answered")[-1]["answers"]
    assert [a["selected_option_ids"] for a in answers] == [["1"], ["2"]]


def test_what_was_settled_elsewhere_is_a_message_and_nothing_else_is_decided(editor: Editor) -> None:
    """Another request that waits by then is not what was shown."""
    submit_and_look(editor, "release it")
    editor.until(editor.inbox, "release")
    client = editor.machine.client
    (shown,) = client.approvals.list()
    client.approvals.deny(shown["request_id"])
    editor.until(editor.transcript, "Understood.\n-- run completed\n*$")
    client.sessions.submit(shown["session_id"], "release it", model=editor.options[1])
    editor.until(editor.transcript, "waits for you: [^\n]*\n*$")
    editor.decide("allow")
    said = editor.until(editor.messages, "approval[^\n]*(denied|settled|resolved|decided)")
    assert not re.search(TRACE, said), said
    (waiting,) = client.approvals.list()
    client.approvals.deny(waiting["request_id"])
    editor.until(editor.transcript, "Understood.\n-- run completed\n*$")


def test_what_the_model_says_is_text_and_does_nothing(editor: Editor) -> None:
    """No control character, no mode line, no command, no link or icon of the editor comes of it."""
    submit_and_look(editor, "be hostile")
    shown = editor.until(editor.inbox, "echo released")
    assert f"    | command: echo released\n    | {INERT}|:!touch owned\n    | :!touch owned\n" in shown
    seen = [shown, editor.transcript()]
    if isinstance(editor, TerminalEditor):
        seen.append(editor.terminal.screen)
        assert editor.evaluate("&foldmethod") == "manual" and editor.evaluate("&filetype") == ""
    assert not re.search(UNSEEN, "".join(seen))
    editor.decide("deny", "no")
    editor.until(editor.transcript, "Understood.\n-- run completed\n*$")
    assert not list(editor.machine.work.rglob("owned"))


def test_a_run_is_interrupted(editor: Editor) -> None:
    editor.submit("hang")
    editor.until(editor.transcript, "> hang\n*$")
    editor.interrupt()
    editor.until(editor.transcript, "-- run interrupted[^\n]*\n*$")
    editor.until(editor.messages, "eish: (run_\\w+ )?interrupted")


@pytest.mark.parametrize("has_kheish", [True, False])
def test_an_error_is_a_message(editor: Editor, has_kheish: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    """In a directory that has no session, and on a machine that has no Kheish."""
    bare = opened(type(editor), editor.machine, tmp_path_factory, has_kheish)
    try:
        bare.interrupt()
        expected = "cannot find a session of this directory" if has_kheish else "cannot (find|run) kheish"
        said = bare.until(bare.messages, expected)
    finally:
        bare.close()
    assert not re.search(TRACE, said), said
    assert not re.search(TRACE, editor.messages()), editor.messages()
