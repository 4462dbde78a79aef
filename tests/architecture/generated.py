"""Files that are made from the code. `python -m tests.architecture.generated` makes them anew."""

from __future__ import annotations

from collections.abc import Callable

from kheish.cli import completions, service
from tests.architecture import client_library
from tests.architecture.modules import REPOSITORY

GENERATED: dict[str, Callable[[], str]] = {
    "kheish/client/views.py": client_library.views,
    "kheish/client/async_nouns.py": client_library.async_nouns,
    "completions/kheish.bash": completions.bash,
    "completions/_kheish": completions.zsh,
    "completions/kheish.fish": completions.fish,
    "share/man/man1/kheish.1": completions.manual,
    "share/systemd/user/kheish.service": lambda: service.systemd_service("/usr/bin/env kheish daemon run", {}),
    "share/systemd/user/kheish.socket": lambda: service.systemd_socket("%h/.local/state/kheish/daemon/kheish.sock"),
    "share/launchd/dev.kheish.daemon.plist": lambda: service.launchd_agent(
        ("/usr/bin/env", "kheish", "daemon", "run"), {}
    ),
}

if __name__ == "__main__":
    for name, make in GENERATED.items():
        path = REPOSITORY / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(make(), "utf-8")
