"""`kheish runs debug`: what a run's model calls sent and got."""

from __future__ import annotations

import json

from kheish.cli.output import paint, print_json, print_table, say
from kheish.cli.targets import connect
from kheish.errors import Invalid
from kheish.terminal import clean, moment, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kheish.client import DebugArtifact, DebugExchange, DebugSummary, HeaderView


def debug(run_id: str, artifact: str | None, raw: bool, as_json: bool) -> int:
    client = connect()
    if artifact is None:
        if raw:
            raise Invalid("cannot tell which attempt is meant: name one of those that `kheish runs debug RUN` lists")
        rows = client.runs.debug(run_id)
        if as_json:
            print_json(rows)
        elif rows:
            _print_list(rows)
        else:
            level = client.runtime.get()["settings"]["debug_level"]
            say(f"nothing is kept of this run; the debug level is {level} (`kheish runtime set-debug-level redacted`)")
        return 0
    view = client.runs.debug_artifact(run_id, artifact)
    if as_json:
        print_json(view)
    elif raw:
        for exchange in view["exchanges"]:
            _print_raw(exchange)
    else:
        _print_artifact(view)
    return 0


def _print_list(rows: list[DebugSummary]) -> None:
    print_table(
        ("attempt", "at", "level", "route", "status", "sent", "got", "took", "outcome"),
        [
            (row["artifact"], moment(row["began_at_ms"]), row["level"], f"{row['route']}/{row['model']}",
             row["status"] or "", f"{row['request_bytes']} B", f"{row['response_bytes']} B", _took(row), _outcome(row))
            for row in rows
        ],
    )  # fmt: skip


def _took(row: DebugSummary) -> str:
    return f"{row['duration_ms']} ms" if row["duration_ms"] else ""


def _outcome(row: DebugSummary) -> str:
    return ": ".join(filter(None, (row["outcome"] or "not over", row["message"])))


def _print_artifact(view: DebugArtifact) -> None:
    print(f"{paint(view['run_id'], 'bold')}  {view['artifact']}  {view['level']}")
    print(one_line(f"{view['route']}/{view['model']}  {_took(view)}  {_outcome(view)}"))
    for exchange in view["exchanges"]:
        request, response = exchange["request"], exchange["response"]
        if request["method"]:
            print(paint(one_line(f"> {request['method']} {request['url']}"), "bold"))
        _print_headers("> ", request["headers"])
        print(clean(_pretty(request["body"])))
        _print_end(request["bytes"], request["sha256"], cut=request["cut"])
        if response["status"]:
            print(paint(f"< {response['status']}, after {response['answered_ms']} ms", "bold"))
        _print_headers("< ", response["headers"])
        for event in response["events"]:
            print(paint(f"[{event['at_ms']} ms]", "dim"), clean(_pretty(event["text"])).strip())
        _print_end(response["bytes"], response["sha256"], cut=response["cut"], complete=response["complete"])


def _print_headers(mark: str, headers: list[HeaderView]) -> None:
    for header in headers:
        print(one_line(f"{mark}{header['name']}: {header['value']}"))


def _print_end(size: int, sha256: str, *, cut: bool, complete: bool = True) -> None:
    notes = ["not all of it is here"] if cut else []
    notes += [] if complete else ["it did not come to its end"]
    print(paint(", ".join([f"[{size} bytes", f"sha256 {sha256}", *notes]) + "]", "dim"))


def _pretty(text: str) -> str:
    try:
        return json.dumps(json.loads(text), ensure_ascii=False, indent=2)
    except (ValueError, RecursionError):
        return text


def _print_raw(exchange: DebugExchange) -> None:
    """As it went over the wire, but for what was redacted."""
    request, response = exchange["request"], exchange["response"]
    events = "".join(event["text"] for event in response["events"])
    if request["method"]:
        head = [f"{request['method']} {request['url']}", *_lines(request["headers"]), "", request["body"], ""]
        head += [str(response["status"] or ""), *_lines(response["headers"]), ""]
    else:  # a provider that sends nothing
        head = [request["body"]]
    print(clean("\n".join(head) + "\n" + events))


def _lines(headers: list[HeaderView]) -> list[str]:
    return [f"{header['name']}: {header['value']}" for header in headers]
