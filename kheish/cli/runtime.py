"""`kheish runtime ...`."""

from __future__ import annotations

from kheish.cli.output import print_json
from kheish.cli.targets import connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kheish.client import RuntimeView


def get(as_json: bool) -> int:
    _print(connect().runtime.get(), as_json)
    return 0


def set_debug_level(level: str, as_json: bool) -> int:
    # It is one of its parameter's choices.
    _print(connect().runtime.set_debug_level(level), as_json)  # type: ignore[arg-type]
    return 0


def _print(view: RuntimeView, as_json: bool) -> None:
    if as_json:
        print_json(view)
    else:
        print(f"debug level  {view['debug_level']}")
