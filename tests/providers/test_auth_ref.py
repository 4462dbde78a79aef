"""Routes whose key is a secret: what a file may say, when the secret is asked for, and when a client is opened anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kheish.errors import Conflict, Invalid, NotFound, ProviderError
from kheish.providers.registry import Routes
from kheish.providers.routes import Route, load_routes

SECRET_ROUTE = 'version = 1\n\n[routes.a]\ndriver = "anthropic"\nauth_ref = "mine"\n'


class Keeper:
    """Secrets that a test sets; counts who asks."""

    def __init__(self, **values: str) -> None:
        self.values = values
        self.asked: list[str] = []

    async def reveal(self, name: str) -> str:
        self.asked.append(name)
        if name not in self.values:
            raise NotFound(f"cannot find the secret {name}", code="secret_not_found")
        return self.values[name]


def routes_in(folder: Path, keeper: Keeper, **environ: str) -> Routes:
    (folder / "routes.toml").write_text(SECRET_ROUTE)
    return Routes(folder, environ, keeper.reveal)


def key_of(provider: Any) -> str:
    return str(provider._client.api_key)


def test_a_route_with_a_secret_reads_no_variable(tmp_path: Path) -> None:
    (tmp_path / "routes.toml").write_text(SECRET_ROUTE)
    table = load_routes(tmp_path / "routes.toml")
    assert table is not None and table.routes == {"a": Route(driver="anthropic", auth_ref="mine")}
    assert table.routes["a"].key_env == ""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('auth_ref = "sk-ant-PW-x"', "auth_ref must be the name of a secret, not a key"),
        ('auth_ref = "pw with spaces"', "auth_ref must be the name of a secret"),
        ('auth_ref = "pw\\n"', "auth_ref must be the name of a secret"),
        ("auth_ref = 5", "auth_ref: Expected `str`, got `int`"),
        ('auth_ref = "mine"\napi_key_env = "K"', "it has both an auth_ref and an api_key_env"),
    ],
)
def test_what_names_no_secret_is_a_fault_with_its_line_and_not_repeated(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "routes.toml").write_text(SECRET_ROUTE.replace('auth_ref = "mine"', line))
    with pytest.raises(Invalid) as caught:
        load_routes(tmp_path / "routes.toml")
    assert caught.value.message.startswith(f"cannot read {tmp_path / 'routes.toml'}, line 5: route a: {said}")
    assert "pw" not in caught.value.message.removeprefix(f"cannot read {tmp_path}").lower()


async def test_a_missing_secret_is_a_route_that_is_not_ready_whatever_the_environment_has(tmp_path: Path) -> None:
    routes = routes_in(tmp_path, Keeper(), ANTHROPIC_API_KEY="k")
    with pytest.raises(Conflict, match="cannot use route a: cannot find the secret mine") as caught:
        await routes.resolve(None)
    assert caught.value.code == "route_not_ready"
    with pytest.raises(ProviderError, match="cannot find the secret mine") as failed:
        await routes.open("a")
    assert failed.value.code == "route_not_ready"
    row = next(row for row in await routes.describe() if row["route_id"] == "a")
    assert (row["auth_ref"], row["ready"], row["problem"]) == ("mine", False, "cannot find the secret mine")


async def test_a_changed_secret_opens_a_new_client_and_the_same_one_does_not(tmp_path: Path) -> None:
    keeper = Keeper(mine="one\n")
    routes = routes_in(tmp_path, keeper)
    first = await routes.open("a")
    assert key_of(first) == "one" and await routes.open("a") is first
    keeper.values["mine"] = "two"
    second = await routes.open("a")
    assert key_of(second) == "two" and second is not first
    keeper.values["mine"] = "one"
    third = await routes.open("a")
    assert key_of(third) == "one" and third is not first, "the old key is not kept"


async def test_who_uses_no_secret_asks_for_none(tmp_path: Path) -> None:
    keeper = Keeper(mine="one")
    routes = routes_in(tmp_path, keeper)
    await routes.open("rehearsal")
    await routes.resolve("scripted/x")
    assert keeper.asked == []
    await routes.describe()
    assert keeper.asked == ["mine"]
    assert "one" not in str(await routes.describe())
