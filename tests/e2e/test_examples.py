"""The documents and examples that are shipped: what they print runs, and what they say of the product is so."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from kheish.api.endpoints import ENDPOINTS
from kheish.cli.command import Command
from kheish.cli.table import DAILY, GROUPS
from kheish.core import events
from kheish.core.model_calls import FAILURES
from kheish.core.permissions import DEFAULT_RULES, MODES, evaluate
from kheish.providers.failures import BY_STATUS, BY_WORD
from kheish.providers.routes import load_routes
from kheish.providers.scripted import load_script
from kheish.store.framing import SEAL_BYTES, SUM_FIELD, ZERO_CHAIN, seal
from kheish.store.records import frame_header
from kheish.tools.registry import load_tools
from tests.daemon_process import DaemonProcess
from tests.e2e.terminal import Terminal, needs_tmux
from tests.store.disk import FailingDisk, disk
from tests.store.sessions import SESSION, Session, frame

pytestmark = pytest.mark.slow

__all__ = ["disk"]

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "share" / "doc" / "kheish"
EXAMPLES = ROOT / "share" / "examples"
PAGES = {path.name: path for path in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]}
COMMANDS = {(c.name,): c for c in DAILY} | {(g, c.name): c for g, (_, group) in GROUPS.items() for c in group}

REHEARSAL = 'version = 1\n\n[routes.rehearsal]\ndriver = "rehearsal"\n'


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGES[page].read_text("utf-8"), re.MULTILINE | re.DOTALL)


def rows(page: str) -> list[list[str]]:
    """The cells of every table row of a page."""
    lines = PAGES[page].read_text("utf-8").splitlines()
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines if line.startswith("| ")]


def words(cell: str) -> list[str]:
    """What stands in code spans."""
    return re.findall(r"`([^`]+)`", cell)


# -- what the pages print runs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon with the rehearsal as its only model; its `env` finds the commands that the pages use."""
    made = DaemonProcess(tmp_path_factory.mktemp("examples"))
    (made.config / "routes.toml").write_text(REHEARSAL)
    made.env |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "EXAMPLES": str(EXAMPLES)}
    try:
        yield made.start()
    finally:
        made.cli("daemon", "stop")
        made.close()


def run_shell(machine: DaemonProcess, script: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    cwd.mkdir(exist_ok=True)
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=cwd,
        env={**machine.env, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.skipif(
    not all(map(shutil.which, ("bash", "curl", "git", "jq", "make"))), reason="the pages use these programs"
)
@pytest.mark.parametrize("page", [name for name in PAGES if blocks(name, "sh")])
def test_the_commands_of_a_page_run(machine: DaemonProcess, page: str) -> None:
    """Every block in `sh`, in the order of the page, each command with the exit status that the page expects."""
    cwd = machine.work / page
    cwd.mkdir()
    (cwd / "notes.txt").write_text("a note\n")
    done = run_shell(machine, "\n".join(blocks(page, "sh")), cwd)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@needs_tmux
@pytest.mark.skipif(not shutil.which("fzf"), reason="THE PICKER IS NOT TESTED: fzf is not installed")
def test_the_picker_approves_what_it_shows(machine: DaemonProcess, tmp_path: Path) -> None:
    (picker,) = blocks("scripting.md", "bash")
    (tmp_path / "picker.sh").write_text(picker)
    run_id = machine.submit(machine.session("picked"), "!echo \x1b[2J\u202epicked > picked.txt")
    machine.until("picked", "approval.requested")
    terminal = Terminal(tmp_path, machine.env, machine.work)
    try:
        terminal.enter(f". {tmp_path}/picker.sh; kheish_pick")
        terminal.type("picked")
        terminal.until(r"command +echo \\x1b\[2J\\u202epicked > picked.txt")
        assert r"echo \\u001b[2J?picked > picked.txt" in terminal.screen
        terminal.press("Enter")
        terminal.until("allowed: bash: echo")
    finally:
        terminal.close()
    assert machine.finish(run_id)["status"] == "completed"
    assert (machine.work / "picked.txt").exists()


def test_the_service_of_the_timer_submits_once(machine: DaemonProcess, tmp_path: Path) -> None:
    """Its command, as systemd reads it, twice."""
    service, timer = blocks("scripting.md", "ini")
    (tmp_path / "nightly.service").write_text(service)
    (tmp_path / "nightly.timer").write_text(timer)
    if shutil.which("systemd-analyze"):
        verify = ["systemd-analyze", "verify", "--user", *(str(path) for path in tmp_path.iterdir())]
        env = {**machine.env, "XDG_RUNTIME_DIR": str(tmp_path)}
        checked = subprocess.run(verify, capture_output=True, text=True, env=env)
        assert checked.returncode == 0 and "nightly" not in checked.stderr, checked.stderr
    (command,) = re.findall("^ExecStart=(.*)$", service.replace("\\\n", " "), re.MULTILINE)
    argv = shlex.split(command.replace("%%", "%"))
    ids = [subprocess.run(argv, env=machine.env, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert ids[0].startswith("run_") and ids[0] == ids[1]


# -- the examples do what they are for -------------------------------------------------------------------------------

DECISIONS: dict[str, tuple[str, str]] = {
    "hello.json": ("completed", "Hello. I am a script, not a model."),
    "workspace.json": ("completed", "Written, changed and read back."),
    "approval.json": ("completed", "Released."),
    "question.json": ("completed", "I take the canary."),
    "retry.json": ("completed", "The third attempt went through."),
    "failure.json": ("failed", ""),
}
"""How the run of each script ends, and its last words."""


def test_every_script_is_known() -> None:
    assert set(DECISIONS) == {path.name for path in (EXAMPLES / "scripts").iterdir()}


@pytest.mark.parametrize("name", DECISIONS)
def test_a_script_plays(machine: DaemonProcess, name: str) -> None:
    """To its end, with the human's part played where it asks for one."""
    client = machine.client
    (machine.work / name).mkdir()
    client.sessions.create(name, cwd=str(machine.work / name))
    client.sessions.add_rule(name, "write_file", "allow")
    client.sessions.add_rule(name, "edit_file", "allow")
    run_id = machine.submit(name, model=f"scripted/{EXAMPLES / 'scripts' / name}")
    if name in ("approval.json", "question.json"):
        asked = machine.until(name, "approval.requested", "question.requested")
        if asked["type"] == "approval.requested":
            client.approvals.allow(asked["request_id"], if_digest=asked["digest"])
        else:
            answer = {"question_id": "1", "selected_option_ids": ["1"]}
            client.questions.answer(asked["request_id"], [answer])
    run = machine.finish(run_id)
    assert (run["status"], "".join(run["outputs"])) == DECISIONS[name], run["error"]


def test_the_configuration_holds(tmp_path: Path) -> None:
    """routes.toml and config.toml as they are shipped, in a daemon of their own."""
    made = DaemonProcess(tmp_path)
    for path in (EXAMPLES / "routes.toml", EXAMPLES / "config.toml", EXAMPLES / "scripts" / "hello.json"):
        shutil.copy(path, made.config)
    try:
        made.start()
        routes = {row["route_id"]: row for row in made.client.daemon.routes()}
        assert {"claude", "gpt", "local", "script"} < set(routes)
        assert routes["claude"]["is_default"] and not routes["claude"]["ready"] and routes["local"]["ready"]
        made.session("s")
        assert made.finish(made.submit("s", model="script"))["status"] == "completed"

        def decision(tool: str, **arguments: str) -> str:
            return str(made.client.permissions.check(tool, input=arguments, session_id="s")["decision"])

        assert decision("bash", command="git status -sb") == "allow"
        assert decision("bash", command="git status; git push") == "ask"
        assert decision("bash", command="make test") == "allow" and decision("bash", command="make tests") == "ask"
        assert decision("write_file", path="notes/a.md") == "allow"
        assert decision("write_file", path="notes/../a.md") == "ask"
        assert decision("read_file", path="secrets/key") == decision("read_file", path="./secrets/key") == "ask"
        made.client.sessions.set_permission_mode("s", "bypass")
        assert decision("bash", command="git push") == decision("edit_file", path=".github/x.yml") == "deny"
    finally:
        made.close()


@pytest.mark.skipif(not shutil.which("jq"), reason="ask.sh uses jq")
def test_ask_prints_the_answer_once_it_is_there(machine: DaemonProcess) -> None:
    """Status 22 while a human is needed; the repeated call joins the same run."""
    ask = [str(EXAMPLES / "ask.sh"), "ask", "!echo the answer"]
    first = run_shell(machine, shlex.join(ask), machine.work)
    assert first.returncode == 22 and "the answer" not in first.stdout, first.stderr
    for approval in machine.client.approvals.list(session_id="ask"):
        machine.client.approvals.allow(approval["request_id"])
    again = run_shell(machine, shlex.join(ask), machine.work)
    assert again.returncode == 0 and "the answer" in again.stdout
    assert len(machine.client.sessions.runs("ask")) == 1


# -- the verifier that was written from the document -----------------------------------------------------------------


def load_verifier() -> ModuleType:
    module = ModuleType("verify_journal")
    exec(compile((EXAMPLES / "verify_journal.py").read_text("utf-8"), "verify_journal.py", "exec"), module.__dict__)
    return module


def test_the_verifier_finds_a_real_session_whole(machine: DaemonProcess) -> None:
    """Records, a blob and a checkpoint that a daemon wrote; then a blob with other bytes."""
    session = machine.session("verified", "bypass")
    run = machine.finish(machine.submit(session, "!seq 1 5000"))
    for _ in range(12):
        machine.submit(session)
    machine.finish(machine.submit(session))
    assert run["status"] == "completed"
    assert machine.cli("daemon", "stop").returncode == 0
    machine.start()
    directory = machine.state / "sessions" / session
    assert list(directory.glob("checkpoint-*.json"))
    command = [sys.executable, "-I", str(EXAMPLES / "verify_journal.py"), str(directory)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"ok, {len(machine.journal(session))} records\n"

    blob = max((machine.state / "blobs").glob("*/*"), key=lambda path: path.stat().st_mtime_ns)
    data = blob.read_bytes()
    blob.write_bytes(data[:-1] + b"?")
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1 and blob.name in done.stderr
    finally:
        blob.write_bytes(data)


def built_session(root: Path, monkeypatch: pytest.MonkeyPatch, disk: FailingDisk, records: int = 5) -> Path:
    """A closed session of two records a segment, whose second record is in a replaced tail: its sync failed."""
    monkeypatch.setattr("kheish.store.journal.SEGMENT_RECORDS_MAX", 2)
    session = Session.create(root)
    session.append()
    disk.fail_data_syncs = {len(disk.data_syncs) + 1}
    session.journal.commit([frame(session.journal, 2)])
    session.append(records - 2, gen=2)
    session.checkpoint()
    session.close()
    return session.path


def test_the_verifier_reads_segments_and_a_replaced_tail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: FailingDisk
) -> None:
    path = built_session(tmp_path / "state", monkeypatch, disk)
    headers = [json.loads(file.read_text().splitlines()[0]) for file in sorted(path.glob("journal-*"))]
    assert [h.get("replaces_tail", False) for h in headers] == [False, True, False, False]
    assert load_verifier().verify(path) == 5


def test_the_verifier_finds_every_flipped_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: FailingDisk
) -> None:
    """Of every line that is read: one bit of each byte. And each file that is missing or of another session."""
    path = built_session(tmp_path / "state", monkeypatch, disk, records=3)
    verify = load_verifier().verify
    replaced = json.loads(sorted(path.glob("journal-*"))[1].read_text().splitlines()[0])["first_seq"]
    for file in sorted(path.iterdir()):
        data = file.read_bytes()
        end = len(data)
        if file.name == "journal-000000000001.jsonl":
            end = sum(len(line) for line in data.splitlines(keepends=True)[:replaced])
        for at in range(end):
            file.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
            with pytest.raises(ValueError):
                verify(path)
        file.write_bytes(data)
    for file in sorted(path.glob("journal-*"))[:-1]:
        if "replaces_tail" in file.read_text():  # what it replaces has the same bytes, where the disk kept them
            continue
        aside = file.rename(tmp_path / "aside")
        with pytest.raises(ValueError):
            verify(path)
        aside.rename(file)
    assert verify(path) == 3
    with pytest.raises(ValueError, match="another session"):
        verify(path.rename(path.with_name("other")))


def test_the_verifier_finds_a_line_that_was_sealed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: FailingDisk
) -> None:
    """By the chain, where its content was changed; by itself, where it fits the chain and says what cannot be."""
    path = built_session(tmp_path / "state", monkeypatch, disk)
    *_, third, last = sorted(path.glob("journal-*"))
    checkpoint = max(path.glob("checkpoint-*"))
    header, record = last.read_bytes().splitlines(keepends=True)

    def check(file: Path, data: bytes, said: str) -> None:
        kept = file.read_bytes()
        file.write_bytes(data)
        with pytest.raises(ValueError, match=said):
            load_verifier().verify(path)
        file.write_bytes(kept)

    lines = third.read_bytes().splitlines(keepends=True)
    lines[1] = resealed(lines[1], b'"number":3', b'"number":4')
    check(third, b"".join(lines), "line 3: chain: this record")
    check(last, header + resealed(record, b'"gen":2', b'"gen":1'), "line 2: fork: generation 1 after 2")
    check(last, header + resealed(record, b'"seq":5', b'"seq":6'), "line 2: seq 6 where 5 belongs")
    other, _ = frame_header(SESSION, 3, 5, ZERO_CHAIN)
    check(last, other + resealed(record, sum_of(header), sum_of(other)), "line 1: chain: this segment")
    chain = json.loads(checkpoint.read_bytes())["chain"].encode()
    check(checkpoint, resealed(checkpoint.read_bytes(), chain, b"f" * 16), "stands on no record")
    assert load_verifier().verify(path) == 5


def resealed(line: bytes, old: bytes, new: bytes) -> bytes:
    """A line with another text and the checksum that belongs to it."""
    assert old in line
    return seal(line[:-SEAL_BYTES].replace(old, new) + b"}")[0]


def sum_of(line: bytes) -> bytes:
    return line[-SEAL_BYTES:].removeprefix(SUM_FIELD)[:16]


def test_the_journal_that_the_document_prints_is_one(tmp_path: Path) -> None:
    (journal,) = blocks("state-format.md", "json")
    directory = tmp_path / json.loads(journal.splitlines()[0])["session"]
    directory.mkdir()
    (directory / "journal-000000000001.jsonl").write_text(journal)
    assert load_verifier().verify(directory) == 2


# -- what the pages say of the product is so -------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGES[page].read_text("utf-8")):
        assert "://" in target or (PAGES[page].parent / target).exists(), target


def command_lines(page: str) -> Iterator[str]:
    """What stands after `kheish ` in every code span and code block, to the end of that command."""
    text = PAGES[page].read_text("utf-8")
    fenced = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    (.+)$", text, re.MULTILINE)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    for code in (*fenced, *indented, *spans):
        for part in without_substitutions(code.replace("\\\n", " ")):
            for match in re.finditer(r"(?:^|[\s(/])kheish ((?:(?!\$\()[^\n|;&)#])*)", part, re.MULTILINE):
                yield match.group(1)


def without_substitutions(code: str) -> Iterator[str]:
    """The commands within `$(...)`, then the rest with a word in their place."""
    while match := re.search(r"\$\(([^()]*)\)", code):
        yield match.group(1)
        code = f"{code[: match.start()]}ID{code[match.end() :]}"
    yield code


def find_command(tokens: list[str]) -> Command | None:
    """None for a group, the program itself, or a placeholder."""
    for length in (2, 1):
        if found := COMMANDS.get(tuple(tokens[:length])):
            return found
    assert not tokens or tokens[0].startswith("-") or tokens[0].isupper() or (tokens[0] in GROUPS and not tokens[1:])
    return None


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_is_named_exists(page: str) -> None:
    """With every option that is given to it."""
    for line in command_lines(page):
        try:
            tokens = shlex.split(line)
        except ValueError:
            tokens = line.split()
        try:
            command = find_command(tokens)
        except AssertionError:
            pytest.fail(f"there is no command: kheish {line}")
        if command is not None:
            known = {flag for param in command.params for flag in param.flags} | {"--help"}
            given = {token.partition("=")[0] for token in tokens if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", token)}
            assert given <= known, f"kheish {line}"


def test_every_command_is_in_the_page_of_commands() -> None:
    text = PAGES["cli.md"].read_text("utf-8")
    rows_of = {name: " ".join(cells[1:]) for cells in rows("cli.md") for name in words(cells[0])}
    for names in COMMANDS:
        if len(names) == 1:
            assert f"kheish {names[0]}" in text or names[0] in ("doctor", "demo"), names
        else:
            assert names[1] in re.findall(r"[a-z-]+", rows_of[f"kheish {names[0]}"]), names


def test_the_table_of_endpoints_is_complete() -> None:
    documented = {word for cells in rows("http-api.md") for word in words(cells[0]) if "/" in word}
    assert documented == {f"{e.method} {e.path}" for e in ENDPOINTS}
    for cells in rows("http-api.md"):
        for endpoint in ENDPOINTS:
            if words(cells[0]) == [f"{endpoint.method} {endpoint.path}"]:
                assert ("keyed" in cells[1]) == endpoint.keyed, cells[0]


def test_the_problem_codes_that_are_documented_exist() -> None:
    source = "".join(path.read_text("utf-8") for path in (ROOT / "kheish").rglob("*.py"))
    codes = {word for cells in rows("http-api.md") if cells[0][:3].isdigit() for word in words(cells[1])}
    assert len(codes) > 40
    assert {code for code in codes if f'"{code}"' not in source} - {"how", "principal", "at_ms"} == set()


def test_every_event_is_documented_with_every_field() -> None:
    documented = {cells[0].strip("`"): cells[1] for cells in rows("events.md") if cells[0].startswith("`")}
    known: dict[str, Any] = {str(e.__struct_config__.tag): e for e in events.Event.__subclasses__()}
    assert set(documented) == set(known)
    for name, event in known.items():
        for field in event.__struct_fields__:
            assert f"`{field}`" in documented[name], f"{name}: {field}"


def test_the_table_of_failures_is_the_product_s() -> None:
    table = {cells[0].strip("`"): cells for cells in rows("routes.md") if cells[1] in ("yes", "no")}
    assert {code: cells[1] == "yes" for code, cells in table.items()} == {
        code: failure.is_retryable for code, failure in FAILURES.items()
    }
    for word, code in BY_WORD.items():
        assert f"`{word}`" in table[code][2] + table[code][3], word
    for status, code in BY_STATUS.items():
        assert str(status) in table[code][4], status


def test_the_matrix_is_the_product_s() -> None:
    header, *table = [cells for cells in rows("permissions.md") if len(cells) == 7]
    assert header == ["tool", "effect", *MODES]
    tools = {name: tool.spec for name, tool in load_tools().items()}
    assert sorted(name for cells in table for name in words(cells[0])) == sorted(tools)
    for cells in table:
        for name in words(cells[0]):
            found = [evaluate(mode, DEFAULT_RULES, name, tools[name], {}).behavior for mode in MODES]
            assert cells[1:] == [tools[name].effect, *found], name


def test_the_main_arguments_are_the_product_s() -> None:
    documented = {
        name: (words(cells[1]) or [""])[0]
        for cells in rows("permissions.md")
        if len(cells) == 2
        for name in words(cells[0])
        if name in load_tools()
    }
    assert documented == {name: tool.spec.main_argument for name, tool in load_tools().items()}


def test_every_variable_is_documented() -> None:
    source = "".join(path.read_text("utf-8") for path in (ROOT / "kheish").rglob("*.py"))
    read = set(re.findall(r"\bKHEISH_[A-Z_]+\b", source))
    documented = {word for cells in rows("operations.md") for word in words(cells[0]) if word.startswith("KHEISH_")}
    assert documented == read


def test_the_files_that_are_printed_are_read_by_the_product(tmp_path: Path) -> None:
    scripts = [block for block in blocks("scripted-provider.md", "json") if '"replies"' in block]
    routes = blocks("routes.md", "toml")
    assert len(scripts) == 5 and len(routes) == 2
    for number, script in enumerate(scripts):
        path = tmp_path / f"{number}.json"
        path.write_text(script)
        assert load_script(path)
    whole, chain = routes
    default, _, rest = chain.partition("\n")
    for text, name in ((whole, "claude"), (whole.replace('default_route = "claude"', default) + rest, "careful")):
        (tmp_path / "routes.toml").write_text(text)
        table = load_routes(tmp_path / "routes.toml")
        assert table is not None and table.default_route == name


def test_what_is_documented_of_a_script_is_all_there_is() -> None:
    from kheish.providers import scripted

    documented = {word for cells in rows("scripted-provider.md") for word in words(cells[0])}
    fields = {f.name for type_ in (scripted._File, scripted.ScriptReply) for f in msgspec.structs.fields(type_)}
    assert documented == fields
