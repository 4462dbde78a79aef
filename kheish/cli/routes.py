"""`kheish routes ...`."""

from __future__ import annotations

from kheish.cli.output import paint, print_json, print_table, say
from kheish.cli.targets import connect


def list_(as_json: bool) -> int:
    rows = connect().daemon.routes()
    if as_json:
        print_json(rows)
        return 0
    print_table(
        ("route", "default", "driver", "model", "ready", "note"),
        [
            (r["route_id"], "*" if r["is_default"] else "", r["driver"], r["default_model"],
             "yes" if r["ready"] else "no", r["problem"] or r["source"])
            for r in rows
        ],
        {4: lambda text: paint(text, "green" if text == "yes" else "red")},
    )  # fmt: skip
    return 0


def chains(as_json: bool) -> int:
    rows = connect().daemon.chains()
    if as_json:
        print_json(rows)
        return 0
    if not rows:
        say("there are no chains; see routes.md")
        return 0
    spared = {(c["route"], c["model"]): c["code"] for row in rows for c in row["cooling"]}
    print_table(
        ("chain", "default", "routes", "spared now"),
        [
            (row["chain_id"], "*" if row["is_default"] else "",
             " > ".join(f"{hop['route']}/{hop['model']}" for hop in row["hops"]),
             ", ".join(f"{hop['route']}/{hop['model']} ({spared[hop['route'], hop['model']]})"
                       for hop in row["hops"] if (hop["route"], hop["model"]) in spared))
            for row in rows
        ],
    )  # fmt: skip
    return 0


def path(as_json: bool) -> int:
    from kheish import paths

    found = str(paths.config_dir() / "routes.toml")
    if as_json:
        print_json({"path": found})
    else:
        print(found)
    return 0
