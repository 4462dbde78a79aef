"""What the daemon asks of the operating system: privacy, signals and orphans."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import resource
import signal
import sys

_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36


def harden_process() -> None:
    """There are no core dumps, no other process of the user may read the daemon's memory (it holds keys), and orphans
    of tool calls come to the daemon instead of to init. The umask stays the user's, for what tools make is the user's;
    the store makes each file of its own private by itself."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError, OSError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def install_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set. A hang-up of the terminal that started the daemon means nothing."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Handled, not ignored: an ignored signal would stay ignored in the commands of tools.
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    return stop
