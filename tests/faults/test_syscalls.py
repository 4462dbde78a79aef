"""The calls that the sweep strikes are all that there are: the kernel's own list of them says the same."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.faults import oracles
from tests.faults.life import Life
from tests.faults.syscalls import below, name_of, read_log

pytestmark = pytest.mark.slow

KINDS = {
    "open": "open",
    "openat": "open",
    "creat": "open",
    "write": "write",
    "fdatasync": "fdatasync",
    "fsync": "fsync",
    "rename": "rename",
    "renameat": "rename",
    "renameat2": "rename",
    "mkdir": "mkdir",
    "mkdirat": "mkdir",
    "rmdir": "rmdir",
    "unlink": "unlink",
    "unlinkat": "unlink",
    "ftruncate": "ftruncate",
}
_OTHERS = """
    pwrite64 writev pwritev pwritev2 truncate fallocate sync_file_range syncfs link linkat symlink symlinkat sendfile
    copy_file_range mknod mknodat chmod fchmod fchmodat chown fchown lchown setxattr fsetxattr mmap
"""
"""What would change a file too, and is not used."""
_CALL = re.compile(r"\d+ +(\w+)\((.*)")
_PATH = re.compile(r'<(/[^>]*)>|"((?:[^"\\]|\\.)*)"')


def can_trace() -> str:
    """Why not, or nothing."""
    if shutil.which("strace") is None:
        return "there is no strace here"
    done = subprocess.run(["strace", "-f", "-qq", "-o", "/dev/null", "true"], capture_output=True, text=True)
    return f"strace does not work here: {done.stderr.strip()}" if done.returncode else ""


def read_trace(trace: Path, folder: Path) -> Counter[tuple[str, str]]:
    """(kind, path) of each call that changes the state root, as the kernel saw it."""
    seen: Counter[tuple[str, str]] = Counter()
    for line in trace.read_text("utf-8", "replace").splitlines():
        match = _CALL.match(line)
        if match is None:
            continue
        call, arguments = match.groups()
        paths = [found[0] or found[1] for found in _PATH.findall(arguments)]
        if call.startswith("rename"):
            path = [path for path in paths if path.startswith("/")][-1]
        elif call in ("openat", "mkdirat", "unlinkat") and len(paths) > 1:
            path = str(Path(paths[0], paths[1]))
        else:
            path = paths[0] if paths else ""
        if not path.startswith(str(folder / "state")) or "daemon.log" in path or path.endswith(".sock"):
            continue
        if call in ("open", "openat") and "O_CREAT" not in arguments:
            continue
        if call == "mmap" and not ("PROT_WRITE" in arguments and "MAP_SHARED" in arguments):
            continue
        seen[KINDS.get(call, call), name_of(below(folder, path))] += 1
    return seen


def test_every_change_to_the_state_root_goes_through_the_watched_calls(short_path: Path) -> None:
    if why := can_trace():
        pytest.skip(f"{why}: NOTHING CHECKS that the sweep strikes every call")
    trace = short_path / "trace"
    watcher = ["strace", "-f", "-qq", "-y", "-s", "0", "--seccomp-bpf", "-o", str(trace)]
    watcher += ["-e", f"trace={','.join(f'?{call}' for call in (*KINDS, *_OTHERS.split()))}"]
    life = Life(short_path, watcher=watcher)
    asyncio.run(life.live())
    assert oracles.judge(life) == []
    seen = read_trace(trace, short_path)
    if not any(kind == "fdatasync" for kind, _ in seen):
        pytest.skip("strace may not look into this process: NOTHING CHECKS that the sweep strikes every call")
    (calls,) = read_log(life.log)
    watched = Counter(
        (call.kind.removesuffix("_dir"), call.name)
        for call in calls
        if call.path.startswith("state") and not call.path.endswith((".sock", ".log"))
    )
    assert seen - watched == Counter(), "calls that nobody watches"
    assert watched - seen == Counter(), "calls that the kernel did not see"
