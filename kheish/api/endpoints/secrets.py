"""Secrets: set, listed and deleted by people alone. No answer holds a value."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from kheish.api.router import Call, Endpoint, NoQuery
from kheish.core.permissions import require_operator
from kheish.errors import Conflict, Invalid
from kheish.runtime.supervisor import Caller
from kheish.secrets.service import Secret
from kheish.wire.body import Body
from kheish.wire.secrets import MasterKeyView, SecretView, SetSecret

if TYPE_CHECKING:
    from kheish.api.app import App

log = logging.getLogger(__name__)


class DeleteQuery(Body, frozen=True):
    """`force` deletes it although routes use it."""

    force: bool = False


async def list_secrets(app: App, call: Call[None, NoQuery]) -> list[SecretView]:
    _require_operator(call.caller)
    users = await _users(app)
    return [_view(secret, users) for secret in await app.secrets.list_secrets()]


async def set_secret(app: App, call: Call[SetSecret, NoQuery]) -> SecretView:
    """What uses it takes the new value the next time that it is used."""
    _require_operator(call.caller)
    secret = await app.secrets.set_secret(call.body.name, call.body.value)
    log.info("%s set the secret %s, version %d", call.caller.principal, secret.name, secret.version)
    return _view(secret, await _users(app))


async def get_secret(app: App, call: Call[None, NoQuery]) -> SecretView:
    _require_operator(call.caller)
    return _view(await app.secrets.get_secret(call.path["name"]), await _users(app))


async def delete_secret(app: App, call: Call[None, DeleteQuery]) -> SecretView:
    """What it was."""
    _require_operator(call.caller)
    name = call.path["name"]
    users = await _users(app)
    view = _view(await app.secrets.get_secret(name), users)
    if view.referenced_by != [] and not call.query.force:
        who = f"routes use it: {', '.join(view.referenced_by)}" if view.referenced_by else "routes.toml cannot be read"
        raise Conflict(
            f"cannot delete the secret {name}: {who}; `kheish secrets delete {name} --force` does it all the same",
            code="secret_in_use",
            referenced_by=view.referenced_by,
        )
    await app.secrets.delete_secret(name)
    log.info("%s deleted the secret %s", call.caller.principal, name)
    return view


async def get_master_key(app: App, call: Call[None, NoQuery]) -> MasterKeyView:
    _require_operator(call.caller)
    return MasterKeyView(**msgspec.structs.asdict(await app.secrets.get_key()))


async def rotate_master_key(app: App, call: Call[None, NoQuery]) -> MasterKeyView:
    """All secrets keep their values and versions."""
    _require_operator(call.caller)
    state = await app.secrets.rotate_key()
    log.info("%s changed the master key, which is %s now", call.caller.principal, state.key_id)
    return MasterKeyView(**msgspec.structs.asdict(state))


def _require_operator(caller: Caller) -> None:
    require_operator(caller.is_operator, caller.principal, "look at secrets or change them")


async def _users(app: App) -> dict[str, list[str]] | None:
    """The routes that use a secret, by its name; None where they cannot be known."""
    users: dict[str, list[str]] = {}
    try:
        for row in await app.supervisor.providers.describe():
            users.setdefault(row["auth_ref"], []).append(row["route_id"])
    except Invalid:
        return None
    return users


def _view(secret: Secret, users: dict[str, list[str]] | None) -> SecretView:
    referenced_by = None if users is None else users.get(secret.name, [])
    return SecretView(**msgspec.structs.asdict(secret), referenced_by=referenced_by)


ENDPOINTS = (
    Endpoint(method="GET", path="/v1/runtime/secrets", handler=list_secrets,
             summary="List the secrets, without their values", returns=list[SecretView],
             codes=("operator_required", "disk_failed")),
    Endpoint(method="POST", path="/v1/runtime/secrets", handler=set_secret,
             summary="Set a secret; nothing reads its value back", body=SetSecret, returns=SecretView,
             codes=("operator_required", "master_key_wrong", "disk_failed", "format_too_new")),
    Endpoint(method="GET", path="/v1/runtime/secrets/{name}", handler=get_secret,
             summary="What is known of a secret, without its value", returns=SecretView,
             codes=("operator_required",)),
    Endpoint(method="DELETE", path="/v1/runtime/secrets/{name}", handler=delete_secret, query=DeleteQuery,
             summary="Delete a secret", returns=SecretView,
             codes=("operator_required", "secret_in_use", "disk_failed")),
    Endpoint(method="GET", path="/v1/runtime/master-key", handler=get_master_key,
             summary="What is known of the key that seals all secrets", returns=MasterKeyView,
             codes=("operator_required",)),
    Endpoint(method="POST", path="/v1/runtime/master-key/rotate", handler=rotate_master_key,
             summary="Make another master key and seal all secrets anew", returns=MasterKeyView,
             codes=("operator_required", "master_key_wrong", "master_key_given", "disk_failed", "format_too_new",
                    "secret_not_found")),
)  # fmt: skip
