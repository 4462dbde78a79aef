"""Routes that are set while the daemon runs: which wins, what may be removed, what the default is; and trying one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kheish.core.events import Hop
from kheish.errors import Conflict, Invalid, KheishError, NotFound
from kheish.limits import RUNTIME_ROUTES_MAX
from kheish.providers import registry
from kheish.providers.registry import Routes
from kheish.wire.runtime import RouteFields, RuntimeSettings
from tests.providers.wire_server import Answer, WireServer, failure
from tests.providers.wires import WIRES, Wire

FILE = """\
version = 1
default_route = "claude"

[routes.claude]
driver = "anthropic"
default_model = "claude-x"
api_key_env = "K"

[routes.gpt]
driver = "openai"
api_key_env = "K"

[chains.careful]
routes = ["claude", "added"]
"""
ADDED = RouteFields(driver="rehearsal")


class Running:
    """The routes of a daemon whose settings change as a test says."""

    def __init__(self, folder: Path, file: str = FILE, **environ: str) -> None:
        self.path = folder / "routes.toml"
        if file:
            self.path.write_text(file)
        self.settings = RuntimeSettings()
        self.routes = Routes(folder, {"K": "k", **environ}, runtime=lambda: self.settings)

    async def add(self, route_id: str, fields: RouteFields = ADDED) -> None:
        self.settings = await self.routes.with_route(self.settings, route_id, fields)

    async def change(self, route_id: str, **changes: Any) -> None:
        self.settings = await self.routes.with_changes(self.settings, route_id, changes)

    async def remove(self, route_id: str) -> None:
        self.settings = await self.routes.without_route(self.settings, route_id)

    async def use(self, model: str) -> None:
        self.settings = replace(self.settings, model=await self.routes.name(model))

    async def row(self, route_id: str) -> dict[str, Any]:
        return next(row for row in await self.routes.describe() if row["route_id"] == route_id)

    async def default(self) -> str:
        return next(row["route_id"] for row in await self.routes.describe() if row["is_default"])


@pytest.fixture
def running(tmp_path: Path) -> Running:
    return Running(tmp_path, FILE.replace('"added"]', '"gpt"]'))


@pytest.fixture(autouse=True)
def no_local_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "LOCAL_SERVERS", ())


# -- which one wins -------------------------------------------------------------------------------------------------


async def test_one_that_was_added_wins_over_the_files_and_says_so(running: Running) -> None:
    await running.add("claude", RouteFields(driver="anthropic", default_model="claude-new", api_key_env="K"))
    row = await running.row("claude")
    assert (row["default_model"], row["source"]) == ("claude-new", f"runtime, instead of {running.path}")
    assert await running.routes.resolve(None) == (Hop(route="claude", model="claude-new"),)
    await running.add("new")
    assert (await running.row("new"))["source"] == "runtime"
    assert (await running.row("gpt"))["source"] == str(running.path)
    await running.remove("claude")
    row = await running.row("claude")
    assert (row["default_model"], row["source"]) == ("claude-x", str(running.path))


async def test_what_is_set_on_a_route_of_the_file_keeps_the_rest_of_it(running: Running) -> None:
    await running.change("claude", default_model="claude-new", multimodal_input=False)
    row = await running.row("claude")
    assert (row["driver"], row["default_model"], row["api_key_env"]) == ("anthropic", "claude-new", "K")
    assert row["multimodal_input"] is False and row["source"].startswith("runtime, instead of ")
    await running.change("claude", auth_ref="mine")
    row = await running.row("claude")
    assert (row["auth_ref"], row["api_key_env"], row["default_model"]) == ("mine", "", "claude-new")
    await running.change("claude", api_key_env="K")
    row = await running.row("claude")
    assert (row["auth_ref"], row["api_key_env"], row["ready"]) == ("", "K", True)


@pytest.mark.parametrize(
    ("route_id", "fields", "said"),
    [
        ("Bad", ADDED, "this is no route id"),
        ("shell", ADDED, "shell is built in"),
        ("a", RouteFields(driver="shell"), "shell is built in"),
        ("a", RouteFields(driver="pw"), "driver: Invalid enum value"),
        ("a", RouteFields(driver="scripted"), "it needs a default_model"),
        ("a", RouteFields(driver="ollama"), "it needs a default_model"),
        ("a", RouteFields(driver="openai", base_url="http://me:pw@h", default_model="m"), "base_url must be"),
        ("a", RouteFields(driver="openai", base_url="http://h/\x1b[31m", default_model="m"), "base_url must be"),
        ("a", RouteFields(driver="openai", api_key_env="sk-pw"), "must be the name of an environment variable"),
        ("a", RouteFields(driver="openai", auth_ref="sk-PW"), "must be the name of a secret"),
        ("a", RouteFields(driver="openai", auth_ref="a", api_key_env="K"), "it has both"),
        ("careful", ADDED, "chain careful: a route has this name"),
    ],
)
async def test_the_rules_are_those_of_the_file(running: Running, route_id: str, fields: RouteFields, said: str) -> None:
    with pytest.raises((Invalid, Conflict)) as caught:
        await running.add(route_id, fields)
    assert said in caught.value.message
    if fields.driver != "pw":
        assert "pw" not in caught.value.message.lower(), "a mistake may hold a secret"


async def test_one_is_added_once_and_not_without_bound(running: Running) -> None:
    await running.add("a")
    with pytest.raises(Conflict, match="`kheish routes set a` changes it") as caught:
        await running.add("a")
    assert caught.value.code == "route_conflict"
    for number in range(RUNTIME_ROUTES_MAX - 1):
        await running.add(f"a{number}")
    with pytest.raises(Conflict, match="were added"):
        await running.add("one-more")


async def test_what_takes_inputs_for_commands_is_not_kept_as_the_model(running: Running) -> None:
    for given in ("shell", "shell/bash"):
        with pytest.raises(Invalid, match="cannot keep shell"):
            await running.use(given)


async def test_a_server_that_no_client_takes_is_a_route_that_is_not_ready(running: Running) -> None:
    await running.add(
        "a", RouteFields(driver="openai_compatible", base_url="http://999.1.1.1", default_model="m", api_key_env="K")
    )
    found = await running.routes.probe("a", "", "auth")
    assert (found.code, found.problem) == ("route_not_ready", "cannot use route a: its client refuses it (InvalidURL)")


# -- what may be removed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "route_id", "said"),
    [(FILE, "gpt", "take it out of /"), (FILE, "rehearsal", "it is built in"), ("", "openai", "a key in the daemon's")],
)
async def test_what_was_not_added_is_not_removed(tmp_path: Path, file: str, route_id: str, said: str) -> None:
    running = Running(tmp_path, file.replace('"added"]', '"gpt"]'), OPENAI_API_KEY="k")
    with pytest.raises(Conflict, match=said) as caught:
        await running.remove(route_id)
    assert caught.value.code == "route_not_added"


async def test_what_nobody_knows_is_not_found(running: Running) -> None:
    for attempt in (running.remove("nobody"), running.change("nobody", default_model="m")):
        with pytest.raises(NotFound, match="there are claude, gpt, scripted") as caught:
            await attempt
        assert caught.value.code == "route_not_found"


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (FILE, "chain careful: added is no route"),
        (FILE.partition("[chains")[0].replace('"claude"', '"added"'), "default_route names no route: added"),
    ],
)
async def test_while_a_chain_or_the_default_of_the_file_needs_it_it_stays(tmp_path: Path, file: str, said: str) -> None:
    running = Running(tmp_path, "")
    await running.add("added")
    running.path.write_text(file)
    with pytest.raises(Conflict) as caught:
        await running.remove("added")
    assert caught.value.code == "route_in_use" and said in caught.value.message
    assert (await running.row("added"))["ready"]


@pytest.mark.parametrize("model", ["added", "added/other"])
async def test_while_the_default_that_was_chosen_needs_it_it_stays(running: Running, model: str) -> None:
    await running.add("added")
    await running.use(model)
    with pytest.raises(Conflict, match=f"the default model is {model}") as caught:
        await running.remove("added")
    assert caught.value.code == "route_in_use"
    with pytest.raises(Conflict):
        await running.routes.checked(RuntimeSettings(model=model))
    await running.use("gpt")
    await running.remove("added")
    assert "added" not in running.settings.routes


async def test_what_stands_behind_one_that_was_added_takes_its_place_so_it_may_be_removed(running: Running) -> None:
    await running.change("claude", default_model="claude-new")
    await running.use("claude")
    await running.remove("claude")
    assert await running.routes.resolve(None) == (Hop(route="claude", model="claude-x"),)


async def test_a_file_that_cannot_be_read_is_named_and_not_the_route(running: Running) -> None:
    await running.add("added")
    running.path.write_text("version = 2\n")
    for attempt in (running.remove("added"), running.add("other")):
        with pytest.raises(Invalid, match=r"routes\.toml, line 1"):
            await attempt


# -- the default ----------------------------------------------------------------------------------------------------


async def test_the_first_that_was_added_is_the_default_where_there_is_nothing_else(tmp_path: Path) -> None:
    running = Running(tmp_path, "")
    assert await running.default() == "rehearsal"
    await running.add("first", RouteFields(driver="scripted", default_model="a.json"))
    await running.add("second")
    assert await running.default() == "first"
    assert await running.routes.resolve(None) == (Hop(route="first", model="a.json"),)
    with_key = Running(tmp_path, "", OPENAI_API_KEY="k")
    await with_key.add("first")
    assert await with_key.default() == "openai"


@pytest.mark.parametrize(
    ("chosen", "kept", "default", "of_default"),
    [
        ("gpt", "gpt", [("gpt", "gpt-5.4")], ("gpt", "m")),
        ("gpt/small", "gpt/small", [("gpt", "small")], ("gpt", "m")),
        ("small", "claude/small", [("claude", "small")], ("claude", "m")),
        ("vendor/small", "claude/vendor/small", [("claude", "vendor/small")], ("claude", "m")),
        ("careful", "careful", [("claude", "claude-x"), ("gpt", "gpt-5.4")], ("claude", "m")),
    ],
)
async def test_a_default_that_was_chosen_is_taken_and_a_model_alone_is_one_of_its_route(
    running: Running, chosen: str, kept: str, default: list[tuple[str, str]], of_default: tuple[str, str]
) -> None:
    await running.use(chosen)
    assert running.settings.model == kept
    assert [(hop.route, hop.model) for hop in await running.routes.resolve(None)] == default
    (hop,) = await running.routes.resolve("m")
    assert (hop.route, hop.model) == of_default
    assert await running.default() == default[0][0]
    assert [row["is_default"] for row in await running.routes.describe_chains()] == [chosen == "careful"]


async def test_the_run_comes_before_the_session_and_the_session_before_the_daemon(running: Running) -> None:
    await running.use("gpt/daemon")
    for selector, kept, expected in (
        (None, "", ("gpt", "daemon")),
        (None, "claude/session", ("claude", "session")),
        ("run", "claude/session", ("claude", "run")),
        ("gpt/run", "claude/session", ("gpt", "run")),
    ):
        (hop,) = await running.routes.resolve(selector, kept)
        assert (hop.route, hop.model) == expected
    assert [hop.route for hop in await running.routes.resolve(None, "careful")] == ["claude", "gpt"]


@pytest.mark.parametrize("chosen", ["gpt", "gpt/small"])
async def test_a_choice_whose_route_is_gone_goes_to_no_other(running: Running, chosen: str) -> None:
    """`gpt/small` would be a model of the default route, were it read anew."""
    await running.use(chosen)
    running.path.write_text(FILE.partition("[routes.gpt]")[0])
    for kept in ("", chosen):
        with pytest.raises(Conflict, match="there is no route gpt any more") as caught:
            await running.routes.resolve(None, kept)
        assert caught.value.code == "route_not_ready"
    assert not any(row["is_default"] for row in await running.routes.describe())
    assert await running.routes.resolve("claude") == (Hop(route="claude", model="claude-x"),)


async def test_what_cannot_be_used_is_not_chosen(tmp_path: Path) -> None:
    running = Running(tmp_path, FILE.replace('"added"]', '"gpt"]').replace('openai"\napi_key_env = "K"', 'openai"'))
    for chosen, error in (("gpt", Conflict), ("careful/x", Invalid), ("scripted", Invalid)):
        with pytest.raises(error):
            await running.use(chosen)
    assert running.settings.model == ""


# -- drivers by name ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "url", "variable", "model"),
    [
        ("google", "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY", "gemini-2.5-flash"),
        ("openrouter", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", "openai/gpt-5.4-mini"),
        ("xai", "https://api.x.ai/v1", "XAI_API_KEY", "grok-4-fast-reasoning"),
        ("ollama", "http://127.0.0.1:11434/v1", "", ""),
        ("llama_cpp", "http://127.0.0.1:8080/v1", "", ""),
    ],
)
async def test_a_driver_knows_its_server_its_key_and_a_model(
    tmp_path: Path, driver: str, url: str, variable: str, model: str
) -> None:
    running = Running(tmp_path, "", **({variable: "the-key"} if variable else {}), OPENAI_BASE_URL="http://wrong")
    await running.add("a", RouteFields(driver=driver, default_model="" if model else "m"))
    row = await running.row("a")
    assert (row["driver"], row["default_model"], row["api_key_env"]) == (driver, model or "m", variable)
    assert row["ready"] and row["multimodal_input"] is bool(variable)
    provider: Any = await running.routes.open("a")
    assert str(provider._client.base_url).rstrip("/") == url
    assert provider._client.api_key == ("the-key" if variable else "none")


# -- trying one -----------------------------------------------------------------------------------------------------

of_servers = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(params=WIRES, ids=lambda wire: wire.driver)
def wire(request: pytest.FixtureRequest) -> Wire:
    found: Wire = request.param
    return found


def on(folder: Path, server: WireServer, wire: Wire) -> Running:
    return Running(folder, "version = 1\n" + wire.route(server.url, "tried"), **{wire.key_env: wire.key})


MODELS = Answer([b'{"object": "list", "data": [], "has_more": false}'], headers={"content-type": "application/json"})


@of_servers
async def test_a_canary_is_one_tiny_call_of_the_model(tmp_path: Path, server: WireServer, wire: Wire) -> None:
    server.play(Answer(wire.text("ok")))
    found = await on(tmp_path, server, wire).routes.probe("tried", "", "canary")
    assert (found.model, found.code, found.problem) == (wire.model, "", "") and found.latency_ms >= 1
    (request,) = server.requests
    assert request["model"] == wire.model and not request.get("tools")
    assert 16 in (request.get("max_tokens"), request.get("max_output_tokens"))
    await on(tmp_path, server, wire).routes.probe("tried", "another", "canary")
    assert server.requests[-1]["model"] == "another"


@of_servers
async def test_a_key_is_tried_with_the_list_of_models(tmp_path: Path, server: WireServer, wire: Wire) -> None:
    server.play(MODELS)
    found = await on(tmp_path, server, wire).routes.probe("tried", "", "auth")
    assert (found.code, found.problem) == ("", "")
    assert [path.partition("?")[0] for path in server.paths] == ["/v1/models"]
    sent = server.request_headers[0]
    assert wire.key in (sent.get("x-api-key", ""), sent.get("authorization", "").removeprefix("Bearer "))


@of_servers
@pytest.mark.parametrize("kind", ["auth", "canary"])
async def test_what_a_provider_refuses_is_an_answer_without_the_key(
    tmp_path: Path, server: WireServer, wire: Wire, kind: Any
) -> None:
    server.play(failure(401, wire.errors("auth", f"bad key {wire.key}")))
    found = await on(tmp_path, server, wire).routes.probe("tried", "", kind)
    assert found.code == "auth" and "401: bad key ***" in found.problem
    assert len(server.requests) == 1, "it is not tried again"


@of_servers
async def test_one_that_is_not_ready_is_not_asked(tmp_path: Path, server: WireServer, wire: Wire) -> None:
    running = Running(tmp_path, "version = 1\n" + wire.route(server.url, "tried"))
    found = await running.routes.probe("tried", "", "canary")
    assert found.code == "route_not_ready" and wire.key_env in found.problem and server.requests == []
    with pytest.raises(KheishError, match="cannot find route nobody"):
        await running.routes.probe("nobody", "", "canary")
