"""`kheish`, `kheish tui` and `kheish attach`: the terminal application."""

from __future__ import annotations

import os
import sys

from kheish.cli.targets import connect, find_session
from kheish.client import AsyncKheish
from kheish.config import load_config
from kheish.errors import Invalid
from kheish.paths import config_dir


def tui() -> int:
    return _open("")


def attach(session_id: str | None) -> int:
    return _open(find_session(connect(), session_id))


def _open(session_id: str) -> int:
    if not (sys.stdin and sys.stdin.isatty() and sys.stdout.isatty()):
        raise Invalid("cannot open the application: standard input and output must be a terminal; try `kheish ps`")
    if os.environ.get("TERM") == "dumb":
        raise Invalid("cannot open the application: TERM says that this terminal is dumb; try `kheish ps`")
    settings = load_config(config_dir()).tui
    from kheish.tui.app import KheishApp
    from kheish.tui.look import UNICODE

    if not sys.stderr.isatty():
        vars(sys)["__stderr__"] = sys.__stdout__  # which Textual draws on
    try:
        "".join(UNICODE).encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        settings.ascii = True
    client = AsyncKheish(origin="tui", start=False)
    app = KheishApp(client, settings, session_id=session_id, here=os.path.realpath(os.getcwd()))
    app.run(mouse=settings.mouse)
    return app.return_code or 0
