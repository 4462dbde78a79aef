"""The whole command line as a Typer application, made from the table: help, checks, suggestions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

from kheish import __version__
from kheish.cli.command import REQUIRED, Command, Param
from kheish.cli.table import DAILY, GROUPS

_ABOUT = (
    "Keep AI agents running as durable services on this machine.\n\n"
    "Start with `kheish run TEXT` in a project, or see everything at work with `kheish demo`."
)


def run_typer(argv: list[str]) -> int:
    """Runs a command line; returns its exit status. What is wrong with the line is said on stderr."""
    try:
        build()(args=argv, prog_name="kheish")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    return 0


def build() -> typer.Typer:
    app = typer.Typer(
        help=_ABOUT,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for command in DAILY:
        _add(app, command)
    for name, (help_text, commands) in GROUPS.items():
        group = typer.Typer(
            help=help_text,
            no_args_is_help=True,
            rich_markup_mode=None,
            context_settings={"help_option_names": ["-h", "--help"]},
        )
        for command in commands:
            _add(group, command)
        app.add_typer(group, name=name)
    return app


def _show_version(value: bool) -> None:
    if value:
        print(f"kheish {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


def _add(app: typer.Typer, command: Command) -> None:
    def call(**values: Any) -> None:
        given = {p.name: values[p.name] for p in command.params}
        raise typer.Exit(command.run({k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}))

    app.command(command.name, help=command.help)(_with_signature(call, command))


def _with_signature(function: Callable[..., None], command: Command) -> Callable[..., None]:
    """Typer reads parameters off a function's signature."""
    parameters = [_parameter(p) for p in command.params]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    function.__name__ = command.name
    return function


def _parameter(param: Param) -> inspect.Parameter:
    kind: Any = Literal[param.choices] if param.choices else param.kind
    if param.many:
        kind = list[kind]
    default = param.default
    options: dict[str, Any] = {"help": param.help, "metavar": param.metavar}
    if param.choices:
        del options["metavar"]
    if param.flags:
        if param.kind is bool:
            options.pop("metavar", None)
        wanted: Any = kind if default is not None else kind | None
        annotation: Any = Annotated[wanted, typer.Option(*param.flags, **options)]
    else:
        optional = default is not REQUIRED
        if param.many and optional:
            default = []
        kind = kind | None if optional and default is None else kind
        annotation = Annotated[kind, typer.Argument(**options, show_default=False)]
    return inspect.Parameter(
        param.name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=annotation,
        default=inspect.Parameter.empty if default is REQUIRED else default,
    )
