"""Two daemons race for a state root, the first time for a fresh one, then for what the killed winner left."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kheish.store.locks import is_state_root_locked, read_owner
from tests.daemon_process import DaemonProcess
from tests.faults.conftest import wait_until

LOCKED = 6
"""The status with which a daemon leaves a root that another one holds."""


def race(daemon: DaemonProcess, generation: int) -> Iterator[str]:
    """Exactly one wins, with this generation, and the other one is told who; else what was found instead."""
    argv = [sys.executable, "-m", "kheish", "daemon", "run"]
    racers = [subprocess.Popen(argv, env=daemon.env, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        wait_until(functools.partial(_one_has_left, racers))
        winner, loser = sorted(racers, key=lambda racer: racer.poll() is not None)
        assert loser.stderr is not None
        said = loser.stderr.read()
        if (winner.returncode, loser.wait()) != (None, LOCKED):
            yield f"they left with {winner.returncode} and {loser.returncode}: {said}"
            return
        if str(winner.pid) not in said:
            yield f"the loser was not told of {winner.pid}: {said}"
        owner = read_owner(daemon.state)
        if not is_state_root_locked(daemon.state) or owner is None or owner.pid != winner.pid:
            yield f"{winner.pid} won, and the root is held by {owner}"
        elif owner.generation != generation:
            yield f"generation {owner.generation} instead of {generation}"
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()


def _one_has_left(racers: list[subprocess.Popen[str]]) -> bool:
    return any(racer.poll() is not None for racer in racers)


def races(folder: Path, rounds: int) -> list[str]:
    daemon = DaemonProcess(folder)
    return [violation for generation in range(1, rounds + 1) for violation in race(daemon, generation)]


def races_on_several_roots(folder: Path, rounds: int, jobs: int) -> list[str]:
    """So many in all, on as many roots at once as there are jobs."""
    each = [rounds // jobs + (number < rounds % jobs) for number in range(jobs)]
    with ThreadPoolExecutor(jobs) as pool:
        found = pool.map(races, [folder / f"races{number}" for number in range(jobs)], each)
        return [violation for violations in found for violation in violations]
