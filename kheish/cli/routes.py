"""`kheish routes ...`."""

from __future__ import annotations

from kheish.cli.output import paint, print_json, print_table, say
from kheish.cli.targets import connect
from kheish.errors import Invalid, NotFound
from kheish.limits import CANARY_TIMEOUT_MS
from kheish.terminal import clean, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kheish.client import Price, RouteDriver, RouteView


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


def get(route_id: str, as_json: bool) -> int:
    rows = connect().daemon.routes()
    view = next((row for row in rows if row["route_id"] == route_id), None)
    if view is None:
        raise NotFound(f"cannot find route {route_id}: there are {', '.join(row['route_id'] for row in rows)}")
    return _show(view, as_json)


def add(
    route_id: str,
    driver: str,
    model: str | None,
    base_url: str | None,
    auth_ref: str | None,
    key_env: str | None,
    multimodal: bool,
    text_only: bool,
    price: str | None,
    context_tokens: int | None,
    if_revision: int | None,
    as_json: bool,
) -> int:
    client = connect()
    chosen: RouteDriver = driver  # type: ignore[assignment]  # one of its parameter's choices
    view = client.routes.add(
        route_id,
        chosen,
        default_model=model,
        base_url=base_url,
        auth_ref=auth_ref,
        api_key_env=key_env,
        multimodal_input=_multimodal(multimodal, text_only),
        price=_price(price),
        context_tokens=context_tokens,
        expected_revision=if_revision,
    )
    status = _show(view, as_json)
    if not (as_json or view["is_default"]):
        say(
            f"`kheish runtime set-model {route_id}` makes it the default; `kheish routes test {route_id}` tries it",
            "dim",
        )
    return status


def set_(
    route_id: str,
    driver: str | None,
    model: str | None,
    base_url: str | None,
    auth_ref: str | None,
    key_env: str | None,
    multimodal: bool,
    text_only: bool,
    price: str | None,
    context_tokens: int | None,
    if_revision: int | None,
    as_json: bool,
) -> int:
    chosen: RouteDriver | None = driver  # type: ignore[assignment]  # one of its parameter's choices
    shown, cost = _multimodal(multimodal, text_only), _price(price)
    if all(given is None for given in (chosen, model, base_url, auth_ref, key_env, shown, cost, context_tokens)):
        raise Invalid("cannot tell what to change: give one of the options that `kheish routes set --help` lists")
    view = connect().routes.set(
        route_id,
        driver=chosen,
        default_model=model,
        base_url=base_url,
        auth_ref=auth_ref,
        api_key_env=key_env,
        multimodal_input=shown,
        price=cost,
        context_tokens=context_tokens,
        expected_revision=if_revision,
    )
    return _show(view, as_json)


def _multimodal(multimodal: bool, text_only: bool) -> bool | None:
    if multimodal and text_only:
        raise Invalid("cannot use both --multimodal and --text-only")
    return True if multimodal else False if text_only else None


def _price(given: str | None) -> Price | None:
    """`3/15` or `3/15/0.3`."""
    if given is None:
        return None
    try:
        input_usd, output_usd, *cached = [float(part) for part in given.split("/")]
        if len(cached) > 1:
            raise ValueError
    except ValueError:
        raise Invalid(f"cannot read the price {given}: write IN/OUT or IN/OUT/CACHED, such as 3/15/0.3") from None
    price: Price = {"input_usd": input_usd, "output_usd": output_usd}
    if cached:
        price["cache_read_usd"] = cached[0]
    return price


def remove(route_id: str, if_revision: int | None, as_json: bool) -> int:
    client = connect()
    view = client.routes.remove(route_id, expected_revision=if_revision)
    if as_json:
        print_json(view)
        return 0
    print(f"removed {route_id}")
    left = next((row for row in client.daemon.routes() if row["route_id"] == route_id), None)
    if left:
        say(f"that of {clean(left['source'])} is in force again")
    return 0


def _show(view: RouteView, as_json: bool) -> int:
    if as_json:
        print_json(view)
        return 0
    default = " (default)" if view["is_default"] else ""
    print(f"{view['route_id']}{default}  {view['driver']}, {clean(view['default_model'])}")
    key = f"the secret {view['auth_ref']}" if view["auth_ref"] else view["api_key_env"] or "none"
    for name, value in (
        ("server", view["base_url"] or "the driver's own"),
        ("key", key),
        ("shown", "images and documents" if view["multimodal_input"] else "text"),
        ("from", view["source"]),
    ):
        print(f"  {name:<8} {clean(value)}")
    if not view["ready"]:
        print(paint(f"  problem  {one_line(view['problem'])}", "red"))
    return 0


def test(route_id: str, model: str | None, auth: bool, as_json: bool) -> int:
    client = connect()
    if not as_json:
        say(f"asking {route_id}, for {CANARY_TIMEOUT_MS // 1000} s at most ...", "dim")
    view = client.routes.test(route_id, kind="auth" if auth else "canary", model=model)
    if as_json:
        print_json(view)
    elif view["ok"]:
        what = "the key is taken" if auth else f"{clean(view['model'])} answers"
        print(f"{paint('ok', 'green')}  {route_id}: {what}, {view['latency_ms']} ms")
    else:
        print(f"{paint('failed', 'red')}  {route_id}: {view['code']}: {one_line(view['problem'])}")
    return 0 if view["ok"] else 1


def path(as_json: bool) -> int:
    from kheish import paths

    found = str(paths.config_dir() / "routes.toml")
    if as_json:
        print_json({"path": found})
    else:
        print(found)
    return 0
