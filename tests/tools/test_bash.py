"""`bash`: nothing runs before its start is durable, what it started ends with it, and what it says is kept."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kheish.core.events import Process
from kheish.limits import KIB, MIB, TOOL_OUTPUT_BYTES_MAX
from kheish.runtime.ports import ToolOutput
from kheish.tools import processes
from kheish.tools.bash import Output
from kheish.tools.processes import identify, is_alive
from tests.tools.workplace import CALL_ID, Live, Workplace


async def said(place: Workplace, command: str) -> str:
    """What a command that goes well writes."""
    return await place.text("bash", command=command)


# -- the gate ---------------------------------------------------------------------------------------------------------


async def exit_of(process: Process) -> None:
    descriptor = os.pidfd_open(process.pid)
    exited = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, exited.set)
    try:
        await exited.wait()
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)


async def test_nothing_runs_before_its_start_was_announced(place: Workplace) -> None:
    async def announce(process: Process) -> None:
        with pytest.raises(TimeoutError):  # a command that does not wait has long ended by then
            await asyncio.wait_for(exit_of(process), 0.2)
        assert place.names() == set()

    output = await place.run("bash", command="touch ran", announce=announce)
    assert not output.is_error
    assert place.names() == {"ran"}


async def test_what_is_announced_is_the_process_that_becomes_the_command(place: Workplace) -> None:
    output = await place.run("bash", command="echo $$ $(ps -o pgid=,sid= -p $$)")
    (process,) = place.announced
    assert output.data.split() == [str(process.pid).encode()] * 3, "and it leads a group and a session of its own"
    assert process.start_ticks > identify(os.getpid()).start_ticks
    assert process.boot_id == identify(os.getpid()).boot_id


@pytest.mark.parametrize("error", [asyncio.CancelledError(), RuntimeError("the record is not durable")])
async def test_a_start_that_was_not_announced_runs_nothing(place: Workplace, error: BaseException) -> None:
    made: list[Process] = []

    async def announce(process: Process) -> None:
        made.append(process)
        raise error

    with pytest.raises(type(error)):
        await place.run("bash", command="touch ran", announce=announce)
    assert place.names() == set()
    assert not is_alive(made[0])


async def test_a_call_cancelled_before_its_start_was_announced_runs_nothing(place: Workplace) -> None:
    made: asyncio.Queue[Process] = asyncio.Queue()

    async def announce(process: Process) -> None:
        made.put_nowait(process)
        await asyncio.Event().wait()

    call = asyncio.ensure_future(place.run("bash", command="touch ran", announce=announce))
    process = await made.get()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert place.names() == set()
    assert not is_alive(process)


async def test_a_call_cancelled_while_its_shell_starts_leaves_none(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Process] = []

    def note_and_cancel(pid: int) -> Process:
        call.cancel()
        started.append(identify(pid))
        return started[-1]

    monkeypatch.setattr("kheish.tools.bash.identify", note_and_cancel)
    call = asyncio.ensure_future(place.run("bash", command="touch ran"))
    with pytest.raises(asyncio.CancelledError):
        await call
    assert place.announced == [] and place.names() == set()
    assert not is_alive(started[0])


async def test_a_command_that_was_killed_at_the_gate_is_a_result(place: Workplace) -> None:
    async def announce(process: Process) -> None:
        os.kill(process.pid, signal.SIGKILL)
        await exit_of(process)

    output = await place.run("bash", command="touch ran", announce=announce)
    assert output.is_error and output.data == b"[ended by signal 9]"
    assert output.metadata["exit_code"] == 137
    assert place.names() == set()


# -- what it says -----------------------------------------------------------------------------------------------------


async def test_output_and_errors_come_in_the_order_in_which_they_were_written(place: Workplace) -> None:
    text = await said(place, "for i in 1 2 3; do echo out $i; echo err $i >&2; done")
    assert text == "".join(f"out {i}\nerr {i}\n" for i in (1, 2, 3))


async def test_output_is_published_while_the_command_runs(place: Workplace) -> None:
    live = Live()
    place.hold()
    call = asyncio.ensure_future(place.run("bash", command="echo before; read go < go; echo after", emit=live.add))
    await live.until("before\n")
    assert not call.done()
    await place.let_go()
    output = await call
    assert output.data == b"before\nafter\n" == live.text.encode()


async def test_a_character_that_arrives_in_two_pieces_is_published_whole(place: Workplace) -> None:
    live = Live()
    place.hold()
    command = r"printf '\303'; read go < go; printf '\251.'"
    call = asyncio.ensure_future(place.run("bash", command=command, emit=live.add))
    await place.let_go()
    assert (await call).data.decode() == "é."
    assert live.text == "é."


@pytest.mark.parametrize(
    ("command", "text", "exit_code"),
    [
        ("true", "[no output]", 0),
        ("echo hi", "hi\n", 0),
        ("false", "[exit status 1]", 1),
        ("echo hi; exit 7", "hi\n[exit status 7]", 7),
        ("printf hi; exit 7", "hi\n[exit status 7]", 7),
        ("kill -TERM $$", "[ended by signal 15]", 143),
        ("kill -HUP $$", "[ended by signal 1]", 129),
        ("no-such-program-here 2>/dev/null", "[exit status 127]", 127),
    ],
)
async def test_how_it_ended_is_told(place: Workplace, command: str, text: str, exit_code: int) -> None:
    output = await place.run("bash", command=command)
    assert output.data.decode() == text
    assert output.is_error is (exit_code != 0)
    assert output.metadata["exit_code"] == exit_code
    assert output.metadata["duration_ms"] >= 0 and set(output.metadata) == {"exit_code", "duration_ms"}


async def test_binary_output_is_kept_as_it_is(place: Workplace) -> None:
    live = Live()
    output = await place.run("bash", command=r"printf '\377\000\376\n'", emit=live.add)
    assert output.data == b"\xff\x00\xfe\n"
    assert live.text == "\ufffd\0\ufffd\n"


async def test_a_hundred_megabytes_keep_their_head_and_their_tail(place: Workplace) -> None:
    output = await place.run("bash", command="echo first; yes xxxxxxxxx | head -c 100000000; echo last")
    assert len(output.data) <= TOOL_OUTPUT_BYTES_MAX
    head, _, tail = output.data.partition(b"\n[... ")
    assert head.startswith(b"first\n") and tail.endswith(b"\nlast\n")
    dropped, _, kept = tail.partition(b" bytes were not kept ...]\n")
    assert len(head) + int(dropped) + len(kept) == 100_000_011
    assert min(len(head), len(kept)) > TOOL_OUTPUT_BYTES_MAX // 2 - KIB


def test_what_is_not_kept_takes_no_memory() -> None:
    piece = b"x" * 64 * KIB
    tracemalloc.start()
    try:
        output = Output(8 * MIB)
        for _ in range(1600):
            output.add(piece)
        assert len(output.value()) <= 8 * MIB
        assert tracemalloc.get_traced_memory()[1] < 32 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [0, 1, 743, 744, 745, 1487, 1488, 1489, 2000, 5000])
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_an_output_is_whole_up_to_its_bound_and_then_loses_its_middle(size: int, step: int) -> None:
    written = bytes(65 + n % 26 for n in range(size))
    output = Output(1744)  # 256 of them for notes, and half of the rest for each end
    for at in range(0, size, step):
        output.add(written[at : at + step])
    if size <= 1488:
        assert output.value() == written
    else:
        gap = f"\n[... {size - 1488} bytes were not kept ...]\n".encode()
        assert output.value() == written[:744] + gap + written[-744:]


# -- what it gets -----------------------------------------------------------------------------------------------------


async def test_standard_input_is_empty(place: Workplace) -> None:
    assert await said(place, "cat; read line || echo nothing to read; readlink /proc/self/fd/0") == (
        "nothing to read\n/dev/null\n"
    )


async def test_it_runs_bash_in_the_workspace_and_each_call_is_a_shell_of_its_own(place: Workplace) -> None:
    os.mkdir(place.root / "sub")
    assert await said(place, "cd sub; X=1; [[ -n $BASH_VERSION ]] && pwd") == f"{place.root}/sub\n"
    assert await said(place, "pwd; echo $PWD; echo ${X-unset}") == f"{place.root}\n{place.root}\nunset\n"


async def test_a_workspace_that_is_gone_is_an_error_in_words(place: Workplace) -> None:
    refusal = await place.refusal("bash", command="true", root=place.root / "gone")
    assert refusal == f"cannot start a shell in {place.root}/gone: No such file or directory"


async def test_the_longest_command_that_is_let_through_can_run(place: Workplace) -> None:
    assert await said(place, "echo ok #".ljust(131_071, "x")) == "ok\n"


SECRETS = (
    "ANTHROPIC_API_KEY",
    "GITHUB_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "DB_PASSWORD",
    "DB_PASS",
    "SSH_PASSPHRASE",
    "MYSQL_PWD",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "SESSION_COOKIE",
    "lower_case_token",
    "KHEISH_API_TOKEN",
)


async def test_secrets_are_not_in_its_environment(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "s3cr3t")
    monkeypatch.setenv("ORDINARY", "passed on")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
    text = await said(place, "env; cat /proc/$$/environ | tr '\\0' '\\n'")
    assert "s3cr3t" not in text
    assert text.count("ORDINARY=passed on\n") == text.count("SSH_AUTH_SOCK=/run/agent\n") == 2


async def test_the_ids_of_the_call_are_in_its_environment(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KHEISH_TOOL_CALL_ID", "of a call that this daemon runs in")
    text = await said(place, "echo $KHEISH_SESSION_ID $KHEISH_RUN_ID $KHEISH_TOOL_CALL_ID")
    assert text == f"session_test run_test {CALL_ID}\n"


async def test_nothing_is_asked_or_paged(place: Workplace) -> None:
    assert await said(place, "echo $TERM $PAGER $GIT_PAGER $GIT_TERMINAL_PROMPT") == "dumb cat cat 0\n"


async def test_no_file_of_the_daemon_is_open_in_it(place: Workplace, tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        assert await said(place, "ls /proc/self/fd") == "0\n1\n2\n3\n", "3 is the directory that ls reads"


# -- its end ----------------------------------------------------------------------------------------------------------

SLEEP = "bash -c 'echo child $$; exec sleep 1000'"
LEFT = {
    "in the background": f"{SLEEP} &",
    "immune to hang-ups": f"nohup {SLEEP} 2>&1 &",
    "disowned": f"{SLEEP} & disown",
    "in a session of its own": f"setsid {SLEEP} &",
    "orphaned": f"({SLEEP} &)",
    "orphaned, in a session of its own": f"(setsid {SLEEP} &)",
    "forked twice, in a session of its own": f'setsid bash -c "({SLEEP.replace("$", chr(92) + "$")} &)" &',
    "without its environment": f"env -i PATH=$PATH {SLEEP} &",
    "orphaned, without its environment": f"(env -i PATH=$PATH {SLEEP} &)",
    "with its output closed": "bash -c 'echo child $$; exec >/dev/null 2>&1; exec sleep 1000' &",
    "stopped": "bash -c 'echo child $$; kill -STOP $$' &",
    "deaf to SIGTERM": "bash -c \"trap '' TERM; echo child \\$\\$; while :; do sleep 1000; done\" &",
}
each_left = pytest.mark.parametrize("left", LEFT)


@pytest.fixture
async def running(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., tuple[Live, asyncio.Task[ToolOutput]]]]:
    """Starts calls that are ended with the test, whatever became of them."""
    calls: list[asyncio.Task[ToolOutput]] = []
    monkeypatch.setattr("kheish.tools.bash.PROCESS_KILL_GRACE_MS", 150)

    def start(command: str, **options: object) -> tuple[Live, asyncio.Task[ToolOutput]]:
        live = Live()
        calls.append(asyncio.ensure_future(place.run("bash", command=command, emit=live.add, **options)))
        return live, calls[-1]

    yield start
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


Running = Callable[..., tuple[Live, "asyncio.Task[ToolOutput]"]]


@each_left
async def test_what_it_leaves_in_the_background_ends_with_it(place: Workplace, running: Running, left: str) -> None:
    place.hold()
    live, call = running(f"{LEFT[left]}\nread go < go; echo done")
    (child,) = await live.children(1)
    await place.let_go()
    output = await call
    assert not is_alive(child)
    assert not output.is_error
    assert "\ndone\n" in output.data.decode()
    assert output.data.endswith(b"\n[processes that it left in the background were ended]")


@each_left
async def test_a_cancelled_call_ends_when_everything_that_it_started_has(running: Running, left: str) -> None:
    live, call = running(f"{LEFT[left]}\n{SLEEP}")
    children = await live.children(2)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert [child for child in children if is_alive(child)] == []


async def test_a_command_that_does_not_want_to_end_keeps_no_other_waiting(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, is_ending, may_end, end = asyncio.get_running_loop(), asyncio.Event(), threading.Event(), processes.kill_tree
    loop.set_default_executor(ThreadPoolExecutor(1))

    def end_late(process: Process, tool_call_id: str, grace_ms: int) -> bool:
        if tool_call_id == "toolcall_stubborn":
            loop.call_soon_threadsafe(is_ending.set)
            may_end.wait()
        return end(process, tool_call_id, grace_ms)

    monkeypatch.setattr(processes, "kill_tree", end_late)
    stubborn = asyncio.create_task(place.run("bash", command="true", call_id="toolcall_stubborn"))
    await is_ending.wait()
    try:
        async with asyncio.timeout(20):
            assert await place.text("bash", command="echo another") == "another\n"
    finally:
        may_end.set()
    await stubborn


async def test_a_call_that_takes_too_long_ends_with_everything_that_it_started(running: Running) -> None:
    everything = "\n".join(LEFT.values())
    live, call = running(f"echo begin\n{everything}\nsleep 1000", timeout_ms=2500)
    children = await live.children(len(LEFT))
    output = await call
    assert [child for child in children if is_alive(child)] == []
    assert output.is_error
    assert output.data.startswith(b"begin\n")
    assert output.data.endswith(b"\n[timed out after 2500 ms; the command and its children were ended]")
    assert output.metadata["timed_out"] is True


@pytest.mark.parametrize("unseen", ["_read_rows", "_read_stat"])
async def test_what_cannot_be_looked_at_for_a_moment_is_ended_all_the_same(
    running: Running, monkeypatch: pytest.MonkeyPatch, unseen: str
) -> None:
    """As where the daemon has no descriptor left: first for the whole of /proc, or for each process in it."""
    live, call = running(f"{LEFT['in the background']}\n{SLEEP}")
    children = await live.children(2)
    see, faults = getattr(processes, unseen), 2 * [OSError(errno.EMFILE, "Too many open files")]

    def see_at_last(*pid: int) -> Any:
        if faults and not pid:
            raise faults.pop()
        if faults:
            if pid[0] == os.getpid():
                faults.pop()
            return []
        return see(*pid)

    monkeypatch.setattr(processes, unseen, see_at_last)
    call.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await asyncio.shield(call)
    assert [child for child in children if is_alive(child)] == [] and not faults


async def test_a_call_cancelled_twice_still_ends_everything_first(running: Running) -> None:
    live, call = running(f"trap '' TERM; {LEFT['deaf to SIGTERM']} {SLEEP}; {SLEEP}")
    children = await live.children(2)
    for _ in range(3):
        call.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await call
    assert [child for child in children if is_alive(child)] == []


async def test_a_command_may_say_goodbye_when_it_is_cancelled(
    place: Workplace, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kheish.tools.bash.PROCESS_KILL_GRACE_MS", 20_000)
    live, call = running("trap 'touch goodbye; exit' TERM; echo ready; while :; do sleep 0.01; done")
    await live.until("ready")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert place.names() == {"goodbye"}


async def test_calls_side_by_side_do_not_end_each_other(place: Workplace, running: Running) -> None:
    place.hold()
    live, call = running(f"{SLEEP} & read go < go")
    (child,) = await live.children(1)
    text = await place.text("bash", command="sleep 1000 & true", call_id="toolcall_beside_it")
    assert text == "[processes that it left in the background were ended]"
    assert is_alive(child) and not call.done()
    await place.let_go()
    await call
    assert not is_alive(child)


async def test_nothing_stays_open_or_unwaited(place: Workplace) -> None:
    await said(place, "sleep 1000 & true")
    before = set(os.listdir("/proc/self/fd"))
    for command in ("true", "exit 1", "sleep 1000 & true", "kill -9 $$"):
        await place.run("bash", command=command)
    assert set(os.listdir("/proc/self/fd")) == before
    for process in place.announced:
        assert not os.path.exists(f"/proc/{process.pid}"), "it stays as a zombie"
