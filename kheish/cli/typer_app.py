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


_CHOICES_COLUMNS = 60
"""Longer choices stand in the help of an option."""

Chosen = tuple[Command, dict[str, Any]]


def read_line(argv: list[str]) -> Chosen | int:
    """The command that a line asks for, and its values. An exit status where there is nothing to run: help was shown,
    or what is wrong with the line was said on stderr."""
    if argv[:1] == ["help"]:
        argv = [*argv[1:], "--help"]
    chosen: list[Chosen] = []
    try:
        build(chosen.append)(args=argv, prog_name="kheish")
    except SystemExit as stop:
        if not chosen:
            return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    return chosen[0] if chosen else 0


def build(choose: Callable[[Chosen], None]) -> typer.Typer:
    """The application, which does not run a command but hands it over."""
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
        _add(app, command, choose)
    for name, (help_text, commands) in GROUPS.items():
        group = typer.Typer(
            help=help_text,
            no_args_is_help=True,
            rich_markup_mode=None,
            context_settings={"help_option_names": ["-h", "--help"]},
        )
        for command in commands:
            _add(group, command, choose)
        app.add_typer(group, name=name, short_help=help_text.removesuffix("."))
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


def _add(app: typer.Typer, command: Command, choose: Callable[[Chosen], None]) -> None:
    def call(**values: Any) -> None:
        given = {p.name: values[p.name] for p in command.params}
        choose((command, {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}))

    # The list of commands takes the first sentence, whole.
    summary = command.help.partition("\n\n")[0].partition(". ")[0].removesuffix(".")
    app.command(command.name, help=command.help, short_help=summary)(_with_signature(call, command))


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
    if param.choices and param.flags and len("|".join(param.choices)) <= _CHOICES_COLUMNS:
        del options["metavar"]
    elif param.choices and param.flags:
        options["help"] += f" One of {', '.join(param.choices)}."
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
        if param.many:
            options["metavar"] += "..."
        annotation = Annotated[kind, typer.Argument(**options, show_default=False)]
    return inspect.Parameter(
        param.name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=annotation,
        default=inspect.Parameter.empty if default is REQUIRED else default,
    )
