"""`kheish daemon install`: the daemon as a service of the user's own service manager, systemd or launchd."""

from __future__ import annotations

import os
import sys

from kheish import paths
from kheish.cli.output import print_json, say

_KEPT = ("KHEISH_STATE_ROOT", "KHEISH_CONFIG_DIR", "KHEISH_SOCKET", "KHEISH_AUTH_STORE_MASTER_KEY_FILE")
LABEL = "dev.kheish.daemon"

_SERVICE = """\
[Unit]
Description=Kheish, the daemon that keeps AI agents running
Wants=kheish.socket
After=kheish.socket

[Service]
Type=notify
ExecStart={command}
{environment}Restart=on-failure
RestartSec=1
# Another daemon has the state root.
RestartPreventExitStatus=6
# Tool calls get their grace from the daemon itself.
KillMode=mixed
TimeoutStopSec=30

[Install]
Also=kheish.socket
WantedBy=default.target
"""

_SOCKET = """\
[Unit]
Description=The socket of Kheish

[Socket]
ListenStream={path}
SocketMode=0600
DirectoryMode=0700

[Install]
WantedBy=sockets.target
"""


def install(print_only: bool, as_json: bool) -> int:
    command = (sys.executable, "-m", "kheish", "daemon", "run")
    kept = {name: os.environ[name] for name in _KEPT if os.environ.get(name)}
    if sys.platform == "darwin":
        folder = os.path.expanduser("~/Library/LaunchAgents")
        files = {f"{LABEL}.plist": launchd_agent(command, kept)}
        then = f"launchctl bootstrap gui/{os.getuid()} {folder}/{LABEL}.plist"
    else:
        folder = os.path.join(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"), "systemd", "user")
        files = {
            "kheish.service": systemd_service(" ".join(map(_quoted, command)), kept),
            "kheish.socket": systemd_socket(_escaped(os.fspath(paths.socket_path()))),
        }
        then = (
            "kheish daemon stop && systemctl --user daemon-reload && "
            "systemctl --user enable --now kheish.socket kheish.service"
        )
    texts = {os.path.join(folder, name): text for name, text in files.items()}
    if not print_only:
        os.makedirs(folder, exist_ok=True)
        for path, text in texts.items():
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
    if as_json:
        print_json({"files": texts, "written": not print_only, "then": then})
    elif print_only:
        heads = ["" if len(texts) == 1 else f"# {path}\n" for path in texts]
        print("\n".join(map("".join, zip(heads, texts.values(), strict=True))), end="")
    else:
        print("\n".join(texts))
        say(f"written. To have it started now and at every login: {then}")
    return 0


def systemd_service(command: str, environment: dict[str, str]) -> str:
    """`command` is a line of systemd's own syntax, and so is the path of the socket."""
    lines = [f"Environment={_quoted(f'{name}={value}')}\n" for name, value in environment.items()]
    return _SERVICE.format(command=command, environment="".join(lines))


def systemd_socket(path: str) -> str:
    return _SOCKET.format(path=path)


def _escaped(text: str) -> str:
    """Source: systemd.unit(5), specifiers."""
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    """Source: systemd.syntax(7)."""
    backslashed = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_escaped(backslashed)}"'


def launchd_agent(command: tuple[str, ...], environment: dict[str, str]) -> str:
    """Source: launchd.plist(5). launchd passes sockets by a call of its own, so the daemon makes its socket itself."""
    import plistlib

    plist: dict[str, object] = {
        "Label": LABEL,
        "ProgramArguments": list(command),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
    }
    if environment:
        plist["EnvironmentVariables"] = environment
    return plistlib.dumps(plist, sort_keys=False).decode()
