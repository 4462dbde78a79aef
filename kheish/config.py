"""`config.toml`: what a person sets for the daemon. Strict: an unknown key or a wrong type is an error that names it.

[permissions]
allow = ["bash(git status*)"]
ask = ["read_file(secrets/*)"]
deny = ["bash(sudo *)"]
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

from kheish.errors import Invalid

FILE_NAME = "config.toml"


class Permissions(msgspec.Struct, forbid_unknown_fields=True):
    """Rules of the scope `user`, as patterns."""

    allow: list[str] = []
    ask: list[str] = []
    deny: list[str] = []


class Config(msgspec.Struct, forbid_unknown_fields=True):
    permissions: Permissions = msgspec.field(default_factory=Permissions)


def load_config(directory: Path) -> Config:
    """The configuration of a directory; defaults where there is no file. Raises Invalid."""
    path = directory / FILE_NAME
    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), Config)
    except FileNotFoundError:
        return Config()
    except (OSError, ValueError) as error:
        raise Invalid(f"cannot read {path}: {error}", code="invalid_config", path=str(path)) from error
