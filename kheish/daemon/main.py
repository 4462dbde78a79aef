"""The daemon, from its first line to its last: the start order on one page.

state root and log -> daemon lock and generation -> rooms -> index and recovery -> socket -> ready
SIGTERM: streams closed with `bye` -> tool calls finish within a grace -> socket -> sessions -> lock
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import sys
from pathlib import Path

from kheish import __version__, paths
from kheish.daemon import lifecycle, logs
from kheish.daemon.service_manager import ServiceManager
from kheish.errors import KheishError
from kheish.limits import DRAIN_GRACE_MS, UNCOLLECTED_OBJECTS_MAX
from kheish.store.atomic import make_private_dir
from kheish.store.locks import DaemonLock

log = logging.getLogger(__name__)

EXIT_LOCKED = 6


def run_daemon() -> int:
    """Runs until it is told to stop; the exit status: 0, or 6 where another daemon holds the state root."""
    lifecycle.harden_process()
    manager = ServiceManager()
    root = paths.state_root()
    socket = paths.socket_path(root)
    try:
        make_private_dir(root)
        make_private_dir(root / "daemon")
        if os.stat(root / "daemon").st_mode & 0o077:  # it was restored with other modes
            os.chmod(root / "daemon", 0o700)
        lock = DaemonLock(root).acquire()
        try:
            with logs.to_file(paths.log_path(root)):
                return asyncio.run(_serve(root, socket, lock, manager))
        finally:
            if os.fspath(socket.parent) == paths.short_dir(root):
                with contextlib.suppress(OSError):
                    os.rmdir(socket.parent)
            lock.release()
    except KheishError as error:
        print(f"kheish: {error.message}", file=sys.stderr)
        return EXIT_LOCKED if error.code == "state_root_locked" else 1
    except OSError as error:
        print(f"kheish: cannot run on {root}: {error}", file=sys.stderr)
        return 1


async def _serve(root: Path, socket: Path, lock: DaemonLock, manager: ServiceManager) -> int:
    from kheish.api.app import App
    from kheish.api.server import Server
    from kheish.daemon.wiring import build_debugging, build_secrets, build_supervisor
    from kheish.providers.registry import Routes
    from kheish.runtime.settings import RuntimeConfig
    from kheish.runtime.supervisor import SystemClock

    stop = lifecycle.install_signals()
    gc.disable()  # whatever is made until the daemon is ready stays
    listener = manager.take_listener(socket)
    secrets = build_secrets(root, paths.config_dir())
    runtime = RuntimeConfig(root / "daemon" / "runtime.json", SystemClock())
    routes = Routes(paths.config_dir(), reveal=secrets.reveal, runtime=lambda: runtime.settings)
    debugging = build_debugging(root, routes, secrets, runtime)
    supervisor = build_supervisor(root, paths.config_dir(), lock, routes, runtime, debugging)
    try:
        await supervisor.start()
        app = App(supervisor, secrets, debugging, state_root=root, socket_path=socket)
        server = Server(app, socket, listener)
        await server.start()
        log.info("ready", extra={"version": __version__, "generation": lock.generation, "pid": os.getpid()})
        manager.notify("READY=1")
        gc.freeze()
        gc.set_threshold(UNCOLLECTED_OBJECTS_MAX)  # runs leave no cycles behind, and much that is alive is looked at
        gc.enable()
        await stop.wait()
        log.info("stopping")
        manager.notify("STOPPING=1")
        app.drain("the daemon is stopping")
        await supervisor.drain(DRAIN_GRACE_MS)
        await server.stop()
    finally:
        await supervisor.close()
        await debugging.close()
    log.info("stopped")
    return 0
