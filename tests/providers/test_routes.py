"""Routes: where they come from, how strictly `routes.toml` is read, what a selector means, and what never shows."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kheish.client.errors import ApiError
from kheish.core.events import Hop, Usage
from kheish.errors import Conflict, Invalid, ProviderError
from kheish.providers import registry
from kheish.providers.registry import Routes
from kheish.providers.rehearsal import Rehearsal
from kheish.providers.routes import Route, load_routes, routes_from_env
from kheish.providers.scripted import Scripted
from kheish.wire.runtime import RuntimeSettings
from tests.daemon_process import ROUTES, DaemonProcess, bash, text

LOCAL_SERVERS = registry.LOCAL_SERVERS

TWO = """\
version = 1
default_route = "claude"

[routes.claude]
driver = "anthropic"
default_model = "claude-x"
api_key_env = "MY_KEY"

[routes."local.one"]
driver = "openai_compatible"
default_model = "small"
base_url = "http://127.0.0.1:8080/v1"
"""


@pytest.fixture(autouse=True)
def no_local_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine runs is none of these tests' business."""
    monkeypatch.setattr(registry, "LOCAL_SERVERS", ())


def write(directory: Path, content: str) -> Path:
    path = directory / "routes.toml"
    path.write_text(content)
    return path


# -- the file -------------------------------------------------------------------------------------------------------


def test_a_file_says_all_there_is_to_say(tmp_path: Path) -> None:
    table = load_routes(write(tmp_path, TWO))
    assert table is not None
    assert table.default_route == "claude"
    assert table.source == str(tmp_path / "routes.toml")
    assert table.routes == {
        "claude": Route(driver="anthropic", default_model="claude-x", api_key_env="MY_KEY"),
        "local.one": Route(driver="openai_compatible", default_model="small", base_url="http://127.0.0.1:8080/v1"),
    }


def test_a_single_route_is_the_default(tmp_path: Path) -> None:
    table = load_routes(write(tmp_path, 'version = 1\n[routes.only]\ndriver = "anthropic"\n'))
    assert table is not None and table.default_route == "only"


def test_a_driver_has_its_usual_key_and_a_server_of_ones_own_needs_none() -> None:
    assert Route(driver="anthropic").key_env == "ANTHROPIC_API_KEY"
    assert Route(driver="anthropic", base_url="http://h").key_env == "ANTHROPIC_API_KEY"
    assert Route(driver="openai").key_env == "OPENAI_API_KEY"
    assert Route(driver="openai", base_url="http://h").key_env == "OPENAI_API_KEY"
    assert Route(driver="openai_compatible").key_env == "OPENAI_API_KEY"
    assert Route(driver="openai_compatible", base_url="http://h").key_env == ""
    assert Route(driver="openai_compatible", base_url="http://h", api_key_env="K").key_env == "K"


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (("version = 1\n", ""), 0, "the key version is missing"),
        (("version = 1", "version = 2"), 1, "version: "),
        (("default_route =", "default ="), 2, "unknown key default"),
        (('"claude"', "3"), 2, "default_route: Expected `str`, got `int`"),
        (('default_route = "claude"\n', ""), 0, "default_route is needed where there are several routes"),
        (('default_route = "claude"', 'default_route = "cloud"'), 2, "default_route names no route: cloud"),
        (('api_key_env = "MY_KEY"', 'key = "MY_KEY"'), 7, "route claude: unknown key key"),
        (('driver = "openai_compatible"\n', ""), 9, "route local.one: the key driver is missing"),
        (('"openai_compatible"', '"open"'), 10, "route local.one: driver: Invalid enum value 'open'"),
        (('"small"', '"small"\nmultimodal_input = 1'), 12, "multimodal_input: Expected `bool | null`, got `int`"),
        (('"small"', '"small"\nprice = { input_usd = -1.0, output_usd = 1.0 }'), 12, "price.input_usd: Expected"),
        (('"small"', '"small"\nprice = { input_usd = 1.0 }'), 12, "output_usd is missing in price"),
        (('"small"', '"small"\nprice = { usd = 1.0 }'), 12, "unknown key usd in price"),
        (('"small"', "5"), 11, "route local.one: default_model: Expected `str`, got `int`"),
        (('default_model = "small"\n', ""), 9, "route local.one: it needs a default_model"),
        (('"local.one"', '"Local One"'), 9, "route Local One: this is no route id"),
        (('"http://127.0.0.1:8080/v1"', '"127.0.0.1:8080"'), 12, "route local.one: base_url must be http(s)://"),
        (('"http://127.0.0.1:8080/v1"', '"http://me:pw@h/v1"'), 12, "base_url must be"),
        (('"http://127.0.0.1:8080/v1"', '"http://:pw@h/v1"'), 12, "base_url must be"),
        (('"http://127.0.0.1:8080/v1"', '"http://h/v1?key=pw"'), 12, "base_url must be"),
        (('"http://127.0.0.1:8080/v1"', '"http://h:99999/v1"'), 12, "base_url must be"),
        (('"http://127.0.0.1:8080/v1"', '"http://[::1/v1"'), 12, "base_url must be"),
        (('"MY_KEY"', '"sk-ant-pw"'), 7, "route claude: api_key_env must be the name of an environment variable"),
        (("[routes.claude]", "[routes.claude"), 0, "(at line 4"),
        (('"MY_KEY"\n', '"MY_KEY"\napi_key_env = "MY_KEY"\n'), 0, "(at line 8"),
    ],
)
def test_a_fault_in_the_file_is_named_with_its_line(
    tmp_path: Path, change: tuple[str, str], line: int, said: str
) -> None:
    old, new = change
    assert old in TWO
    path = write(tmp_path, TWO.replace(old, new, 1))
    with pytest.raises(Invalid) as caught:
        load_routes(path)
    place = f"{path}, line {line}: " if line else f"{path}: "
    assert caught.value.message.startswith(f"cannot read {place}") and said in caught.value.message
    assert caught.value.code == "invalid_routes"
    assert "pw" not in caught.value.message.removeprefix(f"cannot read {path}"), "a mistake may hold a secret"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('version = 1\nroutes.a.driver = "rehearsal"\nroutes.a.drive = 1\n', 3),
        ('version = 1\n[routes]\na = {driver = "rehearsal"}\nb = {driver = "rehearsal", drive = 1}\n', 4),
        ('version = 1\n# drive = 1\n[routes]\n[ routes . a ] # drive\ndriver = "rehearsal"\n"drive" = 1\n', 6),
        ('version = 1\n[routes.drive]\ndriver = "rehearsal"\n[routes.b]\ndriver = "rehearsal"\ndrive = 1\n', 6),
        ("version = 1\n[routes]\nb = 3\n", 3),
        ("version = 1\n[routes]\n", 2),
    ],
)
def test_the_line_is_right_however_the_file_is_written(tmp_path: Path, content: str, line: int) -> None:
    with pytest.raises(Invalid, match=rf"routes\.toml, line {line}: "):
        load_routes(write(tmp_path, content))


def test_a_file_that_cannot_be_read_is_an_error_and_not_an_absent_one(tmp_path: Path) -> None:
    (tmp_path / "routes.toml").symlink_to("routes.toml")
    with pytest.raises(Invalid, match=r"cannot read .*routes\.toml: "):
        asyncio.run(Routes(tmp_path, {"ANTHROPIC_API_KEY": "k"}).table())
    (tmp_path / "routes.toml").unlink()
    (tmp_path / "routes.toml").write_bytes(b"version = 1 # \xff")
    with pytest.raises(Invalid, match=r"cannot read .*routes\.toml: "):
        asyncio.run(Routes(tmp_path, {"ANTHROPIC_API_KEY": "k"}).table())


# -- where routes come from -----------------------------------------------------------------------------------------


async def test_the_file_wins_over_keys_and_keys_win_over_the_rehearsal(tmp_path: Path) -> None:
    environ = {"OPENAI_API_KEY": "k"}
    routes = Routes(tmp_path, environ)
    table = await routes.table()
    assert (table.default_route, table.source) == ("openai", "environment")
    write(tmp_path, TWO)
    assert (await routes.table()).default_route == "claude"
    (tmp_path / "routes.toml").unlink()
    assert (await routes.table()).default_route == "openai"
    environ.clear()
    table = await routes.table()
    assert (table.default_route, table.source) == ("rehearsal", "built in")


async def test_the_built_in_routes_are_always_there_unless_the_file_takes_their_name(tmp_path: Path) -> None:
    write(tmp_path, TWO)
    routes = Routes(tmp_path, {})
    assert list((await routes.table()).routes) == ["claude", "local.one", "scripted", "rehearsal", "shell"]
    write(tmp_path, 'version = 1\n[routes.rehearsal]\ndriver = "scripted"\ndefault_model = "mine.json"\n')
    assert (await routes.table()).routes["rehearsal"].driver == "scripted"


KEYS = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY", "OPENROUTER_API_KEY", "XAI_API_KEY")


def test_keys_in_the_environment_make_routes_with_the_usual_models_in_their_order() -> None:
    assert routes_from_env(dict.fromkeys(KEYS, "")) is None
    table = routes_from_env(dict.fromkeys(reversed(KEYS), "k"))
    assert table is not None
    assert [(name, r.driver, r.model, r.base_url, r.key_env) for name, r in table.routes.items()] == [
        ("anthropic", "anthropic", "claude-opus-4-6", "", "ANTHROPIC_API_KEY"),
        ("openai", "openai", "gpt-5.4", "", "OPENAI_API_KEY"),
        ("gemini", "google", "gemini-2.5-flash", "", "GEMINI_API_KEY"),
        ("openrouter", "openrouter", "openai/gpt-5.4-mini", "", "OPENROUTER_API_KEY"),
        ("xai", "xai", "grok-4-fast-reasoning", "", "XAI_API_KEY"),
    ]
    assert all(route.is_multimodal for route in table.routes.values())


@pytest.mark.parametrize(
    ("key", "route_id"),
    [
        ("ANTHROPIC_API_KEY", "anthropic"),
        ("OPENAI_API_KEY", "openai"),
        ("GEMINI_API_KEY", "gemini"),
        ("GOOGLE_API_KEY", "gemini"),
        ("OPENROUTER_API_KEY", "openrouter"),
        ("XAI_API_KEY", "xai"),
    ],
)
async def test_any_one_key_is_enough(tmp_path: Path, key: str, route_id: str) -> None:
    routes = Routes(tmp_path, {key: "k"})
    table = await routes.table()
    assert (table.default_route, table.source) == (route_id, "environment")
    assert await routes.resolve(None) == (Hop(route=route_id, model=table.routes[route_id].model),)
    assert table.routes[route_id].key_env == key


@pytest.mark.parametrize(
    ("base_url", "driver", "model"),
    [
        ("", "openai", "gpt-5.4"),
        ("https://api.openai.com/v1", "openai", "gpt-5.4"),
        ("https://eu.api.openai.com/v1", "openai", "gpt-5.4"),
        ("http://h:1/v1", "openai_compatible", ""),
        ("https://api.openai.com.example/v1", "openai_compatible", ""),
        ("https://notapi.openai.com/v1", "openai_compatible", ""),
    ],
)
def test_a_server_from_the_environment_gets_the_key_and_speaks_what_all_speak(
    base_url: str, driver: str, model: str
) -> None:
    table = routes_from_env({"OPENAI_API_KEY": "b", "OPENAI_BASE_URL": base_url})
    assert table is not None
    route = table.routes["openai"]
    assert (route.driver, route.base_url, route.key_env, route.model) == (driver, base_url, "OPENAI_API_KEY", model)


def test_a_server_from_the_environment_must_be_one() -> None:
    with pytest.raises(Invalid) as caught:
        routes_from_env({"OPENAI_API_KEY": "b", "OPENAI_BASE_URL": "http://me:pw@h:1/v1"})
    assert "OPENAI_BASE_URL" in caught.value.message and "pw" not in caught.value.message
    assert routes_from_env({"OPENAI_BASE_URL": "nonsense"}) is None, "there is no key that it could be for"


@pytest.mark.parametrize(
    ("driver", "home", "variable"),
    [
        ("anthropic", "https://api.anthropic.com", "ANTHROPIC_BASE_URL"),
        ("openai", "https://api.openai.com/v1", "OPENAI_BASE_URL"),
        ("openai_compatible", "https://api.openai.com/v1", "OPENAI_BASE_URL"),
    ],
)
async def test_a_route_goes_where_it_says_or_the_variable_of_its_sdk_or_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str, home: str, variable: str
) -> None:
    for line, value, expected in (
        ("", None, home),
        ("", "", home),
        ("", "http://127.0.0.1:1/x", "http://127.0.0.1:1/x"),
        ('base_url = "http://127.0.0.1:2"', "http://127.0.0.1:1/x", "http://127.0.0.1:2"),
    ):
        environ = {"K": "k"} if value is None else {"K": "k", variable: value}
        if value is not None:
            monkeypatch.setenv(variable, value)
        content = f'version = 1\n[routes.a]\ndriver = "{driver}"\ndefault_model = "m"\napi_key_env = "K"\n{line}\n'
        write(tmp_path, content)
        provider: Any = await Routes(tmp_path, environ).open("a")
        assert str(provider._client.base_url).rstrip("/") == expected


@pytest.mark.parametrize(
    ("driver", "variable", "home", "model"),
    [
        ("anthropic", "ANTHROPIC_BASE_URL", "https://api.anthropic.com", "claude-opus-4-5"),
        ("openai", "OPENAI_BASE_URL", "https://api.openai.com/v1", "gpt-5"),
    ],
)
async def test_behind_the_variable_of_an_sdk_is_another_server_with_other_prices_and_windows(
    tmp_path: Path, driver: str, variable: str, home: str, model: str
) -> None:
    write(tmp_path, f'version = 1\n[routes.a]\ndriver = "{driver}"\ndefault_model = "{model}"\napi_key_env = "K"\n')
    for url, is_known in ((None, True), (home, True), ("http://127.0.0.1:4000", False), ("http://gate.example", False)):
        routes = Routes(tmp_path, {"K": "k"} if url is None else {"K": "k", variable: url})
        price = (await routes.prices())("a", model, Usage(input_tokens=1_000_000), 1_790_000_000_000)
        [hop] = await routes.with_windows(await routes.resolve("a"))
        assert ((price or 0) > 0, hop.window_tokens > 0) == (is_known, is_known), url
        assert (await routes.describe())[0]["base_url"] == (url or "")
    described = await Routes(tmp_path, {"K": "k", variable: "http://me:pw@gate.example"}).describe()
    assert described[0]["base_url"] == "", "a password is shown to nobody"


@pytest.mark.parametrize("driver", ["anthropic", "openai", "openai_compatible"])
def test_who_is_shown_images_and_documents_is_the_drivers_or_the_files_choice(tmp_path: Path, driver: str) -> None:
    table = f'version = 1\n[routes.a]\ndriver = "{driver}"\n'
    for line, expected in (
        ("", driver != "openai_compatible"),
        ("multimodal_input = true\n", True),
        ("multimodal_input = false\n", False),
    ):
        loaded = load_routes(write(tmp_path, table + line))
        assert loaded is not None and loaded.routes["a"].is_multimodal is expected


def test_the_local_servers_are_looked_for_on_their_usual_ports() -> None:
    assert LOCAL_SERVERS == (
        ("ollama", "http://127.0.0.1:11434/v1"),
        ("llamacpp", "http://127.0.0.1:8080/v1"),
        ("lmstudio", "http://127.0.0.1:1234/v1"),
    )


@contextmanager
def serving(status: int, body: Any) -> Iterator[int]:
    """A model server's port; it knows only the list of its models."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = json.dumps(body).encode() if self.path == "/v1/models" else b"{}"
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


async def test_a_model_server_on_this_machine_is_found_when_nothing_else_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(200, {"data": []}) as empty, serving(200, {"data": [{"id": "tiny"}, {"id": "big"}]}) as real:
        servers = (("empty", f"http://127.0.0.1:{empty}/v1"), ("found", f"http://127.0.0.1:{real}/v1"))
        monkeypatch.setattr(registry, "LOCAL_SERVERS", servers)
        assert await Routes(tmp_path, {}).resolve(None) == (Hop(route="found", model="tiny"),)
        assert (await Routes(tmp_path, {}).table()).source == "local server"
        (hop,) = await Routes(tmp_path, {"ANTHROPIC_API_KEY": "k"}).resolve("anthropic")
        assert hop.route == "anthropic"
    assert await Routes(tmp_path, {}).resolve(None) == (Hop(route="rehearsal", model="rehearsal"),), "it is gone"


@pytest.mark.parametrize(
    ("status", "body"), [(500, {"data": [{"id": "x"}]}), (200, [1]), (200, {"data": [3]}), (200, {"data": {"id": 1}})]
)
async def test_a_server_that_is_no_model_server_is_passed_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, body: Any
) -> None:
    with serving(status, body) as port:
        monkeypatch.setattr(registry, "LOCAL_SERVERS", (("other", f"http://127.0.0.1:{port}/v1"),))
        assert await Routes(tmp_path, {}).resolve(None) == (Hop(route="rehearsal", model="rehearsal"),)


# -- selectors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (None, ("claude", "claude-x")),
        ("", ("claude", "claude-x")),
        ("claude", ("claude", "claude-x")),
        ("claude/", ("claude", "claude-x")),
        ("other-model", ("claude", "other-model")),
        ("local.one", ("local.one", "small")),
        ("local.one/large", ("local.one", "large")),
        ("vendor/model", ("claude", "vendor/model")),
        ("local.one/vendor/model", ("local.one", "vendor/model")),
        ("scripted/a/b.json", ("scripted", "a/b.json")),
        ("rehearsal", ("rehearsal", "rehearsal")),
        ("shell", ("shell", "bash")),
        ("shell/bash", ("shell", "bash")),
    ],
)
async def test_a_selector_is_a_route_or_a_model_or_both(
    tmp_path: Path, selector: str | None, expected: tuple[str, str]
) -> None:
    write(tmp_path, TWO)
    assert await Routes(tmp_path, {"MY_KEY": "k"}).resolve(selector) == (Hop(route=expected[0], model=expected[1]),)


# -- chains ---------------------------------------------------------------------------------------------------------

CHAIN = """
[chains.careful]
routes = ["claude", { route = "local.one/large", on = ["overloaded"] }, "rehearsal"]
"""


async def test_a_chain_stands_where_a_route_may(tmp_path: Path) -> None:
    write(tmp_path, TWO + CHAIN)
    routes = Routes(tmp_path, {"MY_KEY": "k"})
    hops = (
        Hop(route="claude", model="claude-x"),
        Hop(route="local.one", model="large", on=("overloaded",)),
        Hop(route="rehearsal", model="rehearsal"),
    )
    assert await routes.resolve("careful") == hops
    assert await routes.resolve(None) == hops[:1]
    with pytest.raises(Invalid, match="the chain careful has its own models"):
        await routes.resolve("careful/claude-x")
    assert await routes.describe_chains() == [{"chain_id": "careful", "hops": list(hops), "is_default": False}]


async def test_a_chain_may_be_the_default_and_a_model_is_then_one_of_its_first_route(tmp_path: Path) -> None:
    write(tmp_path, TWO.replace('default_route = "claude"', 'default_route = "careful"') + CHAIN)
    routes = Routes(tmp_path, {"MY_KEY": "k"})
    assert [hop.route for hop in await routes.resolve(None)] == ["claude", "local.one", "rehearsal"]
    assert await routes.resolve("other") == (Hop(route="claude", model="other"),)
    assert [row["route_id"] for row in await routes.describe() if row["is_default"]] == ["claude"]


async def test_a_chain_with_a_route_that_is_not_ready_is_refused(tmp_path: Path) -> None:
    write(tmp_path, TWO + CHAIN)
    with pytest.raises(Conflict, match="cannot use route claude: MY_KEY is not set"):
        await Routes(tmp_path, {}).resolve("careful")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("[chains.careful]", "[chains.claude]"), "chain claude: a route has this name"),
        (("[chains.careful]", "[chains.rehearsal]"), "chain rehearsal: a route has this name"),
        (("[chains.careful]", '[chains."Care Ful"]'), "this is no chain id"),
        (("routes = [", 'hops = ["a"]\nroutes = ['), "chain careful: unknown key hops"),
        (('"claude", {', '"cloud", {'), "chain careful: cloud is no route"),
        (('"rehearsal"', '"shell"'), "shell is no way to a model"),
        (('"rehearsal"', '"scripted"'), "scripted needs a model: write scripted/MODEL"),
        (('"rehearsal"', '"claude/claude-x"'), "the same route and model are in it twice"),
        (('"overloaded"', '"auth"'), "a route is not left for auth"),
        (('"overloaded"', '"busy"'), "Invalid enum value 'busy'"),
        (("on =", "when ="), "unknown key when"),
        (('routes = ["claude"', 'routes = []\nx = ["claude"'), "unknown key x"),
    ],
)
def test_a_fault_in_a_chain_is_named_with_its_line(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    assert change[0] in CHAIN
    path = write(tmp_path, TWO + CHAIN.replace(change[0], change[1], 1))
    with pytest.raises(Invalid) as caught:
        load_routes(path)
    assert caught.value.message.startswith(f"cannot read {path}, line 1") and said in caught.value.message


@pytest.mark.parametrize("routes", ["[]", str([f"claude/{number}" for number in range(9)])])
def test_a_chain_has_between_one_and_eight_routes(tmp_path: Path, routes: str) -> None:
    with pytest.raises(Invalid, match="it needs between 1 and 8 routes"):
        load_routes(write(tmp_path, f"{TWO}\n[chains.c]\nroutes = {routes}\n"))


async def test_a_route_without_a_model_asks_for_one(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="scripted/MODEL") as caught:
        await Routes(tmp_path, {}).resolve("scripted")
    assert caught.value.code == "model_missing"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (None, "MY_KEY is not set"),
        ("", "MY_KEY is not set"),
        (" \r\n", "MY_KEY is not set"),
        ("se\ncret", "MY_KEY holds characters"),
        ("secret\u2019", "MY_KEY holds characters"),
    ],
)
async def test_a_route_without_a_usable_key_is_not_ready(tmp_path: Path, key: str | None, said: str) -> None:
    write(tmp_path, TWO)
    routes = Routes(tmp_path, {} if key is None else {"MY_KEY": key})
    with pytest.raises(Conflict, match=said) as refused:
        await routes.resolve(None)
    assert refused.value.code == "route_not_ready"
    with pytest.raises(ProviderError, match=said) as failed:
        await routes.open("claude")
    assert failed.value.code == "route_not_ready"
    row = next(row for row in await routes.describe() if row["route_id"] == "claude")
    assert (row["ready"], row["is_default"]) == (False, True)
    assert said in row["problem"] and "secret" not in str(row)


async def test_a_key_may_have_the_white_space_of_the_file_it_came_from(tmp_path: Path) -> None:
    write(tmp_path, TWO)
    routes = Routes(tmp_path, {"MY_KEY": "k\r\n"})
    assert await routes.resolve(None) == (Hop(route="claude", model="claude-x"),)
    assert await routes._key(Route(driver="anthropic", api_key_env="MY_KEY")) == ("k", "")


async def test_what_is_shown_of_a_route_has_no_secret(tmp_path: Path) -> None:
    write(tmp_path, TWO)
    rows = await Routes(tmp_path, {"MY_KEY": "canary"}).describe()
    assert [row["route_id"] for row in rows] == ["claude", "local.one", "scripted", "rehearsal", "shell"]
    assert rows[0] == {
        "route_id": "claude",
        "driver": "anthropic",
        "default_model": "claude-x",
        "base_url": "",
        "api_key_env": "MY_KEY",
        "auth_ref": "",
        "multimodal_input": True,
        "is_default": True,
        "ready": True,
        "problem": "",
        "source": str(tmp_path / "routes.toml"),
    }
    assert rows[3]["source"] == "built in"
    assert "canary" not in str(rows)


async def test_a_route_is_opened_once_until_it_changes(tmp_path: Path) -> None:
    write(tmp_path, ROUTES)
    routes = Routes(tmp_path, {})
    first, second = await asyncio.gather(routes.open("test"), routes.open("test"))
    assert first is second and isinstance(first, Scripted)
    write(tmp_path, ROUTES.replace("scripted", "rehearsal"))
    assert isinstance(await routes.open("test"), Rehearsal)


async def test_between_two_looks_at_the_file_calls_take_what_the_last_run_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "ROUTES_LOOK_EVERY_MS", 3_600_000)
    write(tmp_path, ROUTES)
    settings = RuntimeSettings()
    routes = Routes(tmp_path, {}, runtime=lambda: settings)
    first = await routes.open("test")
    write(tmp_path, ROUTES.replace("scripted", "rehearsal"))
    assert await routes.open("test") is first
    await routes.resolve("test")
    assert isinstance(await routes.open("test"), Rehearsal)
    write(tmp_path, ROUTES)
    settings = RuntimeSettings()
    assert isinstance(await routes.open("test"), Scripted)


async def test_a_call_looks_at_the_file_when_it_is_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "ROUTES_LOOK_EVERY_MS", 0)
    write(tmp_path, ROUTES)
    settings = RuntimeSettings()
    routes = Routes(tmp_path, {}, runtime=lambda: settings)
    await routes.open("test")
    write(tmp_path, ROUTES.replace("scripted", "rehearsal"))
    assert isinstance(await routes.open("test"), Rehearsal)


# -- through the daemon ---------------------------------------------------------------------------------------------


def use(daemon: DaemonProcess, content: str) -> None:
    """Replaces `routes.toml`, with another time than it had."""
    path = daemon.config / "routes.toml"
    before = path.stat().st_mtime_ns
    path.write_text(content)
    os.utime(path, ns=(before + 1_000_000, before + 1_000_000))


@pytest.mark.slow
def test_a_route_that_is_not_ready_refuses_before_there_is_a_run(shared_daemon: DaemonProcess) -> None:
    use(shared_daemon, ROUTES + '[routes.claude]\ndriver = "anthropic"\n')
    session = shared_daemon.session("not-ready")
    with pytest.raises(ApiError, match="ANTHROPIC_API_KEY is not set") as caught:
        shared_daemon.submit(session, model="claude")
    assert (caught.value.status, caught.value.code) == (409, "route_not_ready")
    assert shared_daemon.client.sessions.runs(session) == []
    assert shared_daemon.types(session) == ["session.created"]


@pytest.mark.slow
def test_a_file_with_a_fault_is_named_and_stops_nothing_else(shared_daemon: DaemonProcess) -> None:
    session = shared_daemon.session("fault")
    shared_daemon.script(text("fine"))
    use(shared_daemon, ROUTES + "drive = 1\n")
    with pytest.raises(ApiError, match=r"routes\.toml, line 7: route test: unknown key drive") as caught:
        shared_daemon.submit(session)
    assert (caught.value.status, caught.value.code) == (400, "invalid_routes")
    listed = shared_daemon.cli("routes", "list")
    assert listed.returncode == 2 and "line 7" in listed.stderr
    use(shared_daemon, ROUTES)
    assert shared_daemon.finish(shared_daemon.submit(session))["outputs"] == ["fine"]


@pytest.mark.slow
def test_a_queued_run_keeps_the_route_and_model_it_was_given(shared_daemon: DaemonProcess) -> None:
    """The file changes while two runs wait: one keeps its model, the other's route is gone and it says so."""
    gate = shared_daemon.work / "gate"
    use(shared_daemon, ROUTES + '[routes.other]\ndriver = "scripted"\ndefault_model = "other.json"\n')
    shared_daemon.script(bash(f"while [ ! -e {gate} ]; do sleep 0.01; done"), text("one"), text("old"), text("old"))
    shared_daemon.script(*[text("other")] * 4, name="other.json")
    shared_daemon.script(*[text("new")] * 8, name="new.json")
    session = shared_daemon.session("pinned", "bypass")
    active, queued = shared_daemon.submit(session), shared_daemon.submit(session)
    vanishing = shared_daemon.submit(session, model="other")
    use(shared_daemon, ROUTES.replace("script.json", "new.json"))
    late = shared_daemon.submit(session)
    gate.touch()
    runs = {run_id: shared_daemon.finish(run_id) for run_id in (active, queued, vanishing, late)}
    assert [runs[r]["outputs"] for r in (active, queued, late)] == [["one"], ["old"], ["new"]]
    assert [runs[r]["request"]["model"] for r in (queued, vanishing, late)] == ["script.json", "other.json", "new.json"]
    gone = runs[vanishing]
    assert (gone["status"], gone["error"]["code"]) == ("failed", "route_not_ready")
    assert "cannot find route other: it is no longer configured" in gone["error"]["message"]
    assert gone["request"]["provider"] == "other"
