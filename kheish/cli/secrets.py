"""`kheish secrets ...`. A value comes from a prompt, standard input or a variable: every process sees arguments."""

from __future__ import annotations

import base64
import os
import sys

from kheish.cli.output import paint, print_json, print_table, say
from kheish.cli.targets import connect
from kheish.client.diagnostics import KEYS
from kheish.errors import Invalid, NotFound
from kheish.terminal import ago, clean, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kheish.client import SecretView

_RANDOM_BYTES = 32


def set_(name: str, value: list[str], from_env: str | None, as_json: bool) -> int:
    if value:
        raise Invalid(
            "cannot take the value as an argument: process lists show it to every user of this machine, and your shell "
            f"keeps it; pipe it in, or enter it where `kheish secrets set {name}` asks. What you gave may be known now"
        )
    found = _variable(from_env) if from_env else _read_value(name)
    _tell(connect().secrets.set(name, found), as_json)
    return 0


def _variable(name: str) -> str:
    found = os.environ.get(name)
    if not found:
        raise Invalid(f"cannot take the value from {name}: it is not set here, or empty")
    return found


def _read_value(name: str) -> str:
    """Of standard input, without the newline that ends it; typed, it is not shown."""
    if sys.stdin is not None and sys.stdin.isatty():
        import getpass

        try:
            found = getpass.getpass(f"value of {name} (not shown): ")
        except EOFError:
            say()
            found = ""
        except KeyboardInterrupt:
            say()
            raise
    else:
        try:
            found = sys.stdin.buffer.read().decode() if sys.stdin else ""
        except UnicodeDecodeError as error:
            raise Invalid(f"cannot set the secret {name}: the value is not UTF-8 (at byte {error.start})") from error
    found = found.removesuffix("\n").removesuffix("\r")
    if not found:
        raise Invalid(f"cannot set the secret {name}: the value is empty")
    return found


def generate(name: str | None, show: bool, as_json: bool) -> int:
    value = base64.urlsafe_b64encode(os.urandom(_RANDOM_BYTES)).decode()
    view = connect().secrets.set(name, value) if name else None
    shown = value if show or not name else None
    if as_json:
        print_json({**(view or {}), **({"value": shown} if shown else {})})
        return 0
    if view:
        say(_summary(view))
    if shown:
        print(shown)
    return 0


def import_env(as_json: bool) -> int:
    found = {_name_for(variable): os.environ[variable] for variable in KEYS if os.environ.get(variable)}
    if not found:
        raise NotFound(f"cannot import a key: none of {', '.join(KEYS)} is set here")
    client = connect()
    views = [client.secrets.set(name, value) for name, value in found.items()]
    if as_json:
        print_json(views)
        return 0
    for view in views:
        _tell(view, as_json)
    say('a route of routes.toml uses one with `auth_ref = "NAME"`; see `kheish routes path`')
    return 0


def _name_for(variable: str) -> str:
    """ANTHROPIC_API_KEY is kept as `anthropic`."""
    return variable.removesuffix("_API_KEY").lower()


def list_(as_json: bool) -> int:
    rows = connect().secrets.list()
    if as_json:
        print_json(rows)
    elif not rows:
        say("there are no secrets; `kheish secrets set NAME` makes one")
    else:
        print_table(
            ("name", "version", "set", "used by", "problem"),
            [(r["name"], r["version"], _age(r), _users(r), r["problem"]) for r in rows],
            {4: lambda text: paint(text, "red")},
        )
    return 0


def get(name: str, as_json: bool) -> int:
    view = connect().secrets.get(name)
    if as_json:
        print_json(view)
        return 0
    print(f"{view['name']}  version {view['version']}, set {_age(view)}")
    print(f"  used by    {_users(view) or 'no route'}")
    if view["problem"]:
        print(paint(f"  problem    {one_line(view['problem'])}", "red"))
    say("its value is not shown: only what uses it gets it", "dim")
    return 0


def delete(name: str, force: bool, as_json: bool) -> int:
    view = connect().secrets.delete(name, force=force)
    if as_json:
        print_json(view)
        return 0
    print(f"deleted {view['name']}")
    if users := _users(view):
        say(f"without a key now: {users}", "yellow")
    return 0


def rotate_key(as_json: bool) -> int:
    view = connect().secrets.rotate_master_key()
    if as_json:
        print_json(view)
    else:
        print(f"the master key is {view['key_id']} now, in {clean(view['place'])}")
        say("backups from before need the key from before", "dim")
    return 0


def _tell(view: SecretView, as_json: bool) -> None:
    if as_json:
        print_json(view)
    else:
        print(_summary(view))


def _summary(view: SecretView) -> str:
    return f"{'set' if view['version'] == 1 else 'replaced'} {view['name']} (version {view['version']})"


def _age(view: SecretView) -> str:
    return f"{ago(view['updated_at_ms'])} ago" if view["updated_at_ms"] else ""


def _users(view: SecretView) -> str:
    users = view["referenced_by"]
    return "(routes.toml cannot be read)" if users is None else ", ".join(users)
