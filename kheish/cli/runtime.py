"""`kheish runtime ...`: what is set while the daemon runs."""

from __future__ import annotations

from kheish.cli.output import paint, print_json, print_table, say
from kheish.cli.sessions import read_text
from kheish.cli.targets import connect
from kheish.errors import Invalid
from kheish.terminal import ago, clean, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kheish.client import DebugLevel, Mode, RuntimeView, ToolLimits

_NOTHING = "-"


def get(as_json: bool) -> int:
    view = connect().runtime.get()
    if as_json:
        print_json(view)
        return 0
    settings = view["settings"]
    if view["revision"]:
        print(f"revision {view['revision']}, set {ago(view['updated_at_ms'])} ago by {view['updated_by']}")
    else:
        print("revision 0: nothing was set")
    taken = f"{view['route_id']}/{view['model_id']}" if view["route_id"] else ""
    print(f"  model            {clean(settings['model']) or _NOTHING}")
    print(f"  a run takes      {clean(taken) or paint(one_line(view['problem']), 'red')}")
    print(f"  permission mode  {settings['permission_mode']} (new sessions)")
    print(f"  debug level      {settings['debug_level']}")
    print(f"  system prompt    {one_line(settings['system_prompt'], 100) or _NOTHING}")
    limits = [f"{tool} ({_limits(given)})" for tool, given in settings["tool_limits"].items()]
    print(f"  tool limits      {', '.join(limits) or _NOTHING}")
    print(f"  routes           {', '.join(settings['routes']) or _NOTHING}")
    return 0


def set_model(model: str | None, reset: bool, if_revision: int | None, as_json: bool) -> int:
    view = connect().runtime.set_model(_given("MODEL", model, reset), expected_revision=if_revision)
    return _tell(view, as_json, f"runs that are submitted from now on take {_taken(view)}")


def set_permission_mode(mode: str, if_revision: int | None, as_json: bool) -> int:
    chosen: Mode = mode  # type: ignore[assignment]  # one of its parameter's choices
    view = connect().runtime.set_permission_mode(chosen, expected_revision=if_revision)
    return _tell(
        view, as_json, f"sessions that people create from now on have the mode {mode}; those that there are keep theirs"
    )


def set_debug_level(level: str, if_revision: int | None, as_json: bool) -> int:
    chosen: DebugLevel = level  # type: ignore[assignment]  # one of its parameter's choices
    view = connect().runtime.set_debug_level(chosen, expected_revision=if_revision)
    kept = "nothing is kept" if level == "off" else f"`kheish runs debug RUN` shows what is kept ({level})"
    return _tell(view, as_json, f"{kept} of model calls that begin from now on")


def set_system_prompt(text: list[str], reset: bool, if_revision: int | None, as_json: bool) -> int:
    given = _given("TEXT", read_text(text) if text else None, reset)
    view = connect().runtime.set_system_prompt(given, expected_revision=if_revision)
    added = f"{len(view['settings']['system_prompt'])} characters are" if given else "nothing is"
    return _tell(view, as_json, f"{added} added to the system text of runs that are submitted from now on")


def _given(name: str, value: str | None, reset: bool) -> str:
    if (value is None) != reset:
        raise Invalid(f"cannot tell what to set: give {name}, or --reset to take back what was set")
    return value or ""


def tool_limits(
    tool: str | None,
    timeout_ms: int | None,
    output_bytes: int | None,
    reset: bool,
    if_revision: int | None,
    as_json: bool,
) -> int:
    if tool is None:
        if reset or timeout_ms is not None or output_bytes is not None:
            raise Invalid("cannot tell which tool is meant: name it first")
        return _list_limits(as_json)
    if reset != (timeout_ms is None and output_bytes is None):
        raise Invalid("cannot tell what to set: give --timeout-ms or --output-bytes, or --reset alone")
    if reset:
        timeout_ms = output_bytes = 0
    view = connect().runtime.set_tool_limits(
        tool, timeout_ms=timeout_ms, output_bytes=output_bytes, expected_revision=if_revision
    )
    limits = view["settings"]["tool_limits"].get(tool)
    what = f"has {_limits(limits)}" if limits else "has its own limits"
    return _tell(view, as_json, f"{tool} {what} in runs that start from now on")


def _list_limits(as_json: bool) -> int:
    rows = connect().runtime.tool_limits()
    if as_json:
        print_json(rows)
    elif not rows:
        say("every tool has its own limits")
    else:
        print_table(
            ("tool", "timeout ms", "output bytes"),
            [(tool, row.get("timeout_ms", ""), row.get("output_bytes", "")) for tool, row in rows.items()],
        )
    return 0


def _limits(row: ToolLimits) -> str:
    return ", ".join(f"{name} {value}" for name, value in row.items())


def revisions(as_json: bool) -> int:
    rows = connect().runtime.revisions()
    if as_json:
        print_json(rows)
        return 0
    print_table(
        ("revision", "set", "by", "change"),
        [
            (r["revision"], f"{ago(r['at_ms'])} ago" if r["at_ms"] else "", r["by"], r["change"] or "nothing was set")
            for r in rows
        ],
    )
    return 0


def rollback(revision: int, if_revision: int | None, as_json: bool) -> int:
    view = connect().runtime.rollback(revision, expected_revision=if_revision)
    return _tell(
        view, as_json, f"the settings are those of revision {revision}; runs that were submitted keep what they have"
    )


def _taken(view: RuntimeView) -> str:
    """What a run takes that says nothing."""
    return (
        clean(f"{view['route_id']}/{view['model_id']}") if view["route_id"] else f"nothing: {one_line(view['problem'])}"
    )


def _tell(view: RuntimeView, as_json: bool, what: str) -> int:
    if as_json:
        print_json(view)
    else:
        print(f"revision {view['revision']}")
        say(clean(what), "dim")
    return 0
