"""What a command of the CLI is: a row of data, so that the quick path, Typer, completions and tests read one table."""

from __future__ import annotations

from importlib import import_module

from kheish.errors import Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Param:
    """An argument (no `flags`) or an option. `kind`: str, int, float, or bool for a flag. `many` takes several: an
    argument takes the rest of the line, an option may be repeated. A number is `at_least` that; a text may be empty
    only where that is its default."""

    __slots__ = ("at_least", "choices", "default", "flags", "help", "kind", "many", "metavar", "name")

    def __init__(
        self,
        name: str,
        *flags: str,
        kind: type = str,
        default: Any = None,
        help: str = "",
        many: bool = False,
        metavar: str = "",
        choices: tuple[str, ...] = (),
        at_least: int = 0,
    ) -> None:
        self.name = name
        self.flags = flags
        self.kind = kind
        self.default: Any = [] if many and default is None and flags else (False if kind is bool else default)
        self.help = help
        self.many = many
        self.metavar = metavar or name.upper()
        self.choices = choices
        self.at_least = at_least

    def check(self, value: Any) -> None:
        """Raises Invalid for a value that neither way of parsing refuses."""
        name = self.flags[-1] if self.flags else self.metavar
        if value == "" and self.default != "":
            raise Invalid(f"cannot use {name}: it is empty")
        if self.kind in (int, float) and value is not None and not value >= self.at_least:
            raise Invalid(f"cannot use {name} {value}: it must be at least {self.at_least}")


class _Required:
    pass


REQUIRED: Any = _Required()


class Command:
    """`target` is `module:function` in kheish.cli; it takes the parameters by name and returns an exit status. `hot`:
    people and scripts call it all day, so it loads nothing heavy and leaves nothing to be done at the exit."""

    __slots__ = ("help", "hot", "name", "params", "target")

    def __init__(self, name: str, target: str, help: str, *params: Param, hot: bool = False) -> None:
        self.name = name
        self.target = target
        self.help = help
        self.params = params
        self.hot = hot

    def run(self, values: dict[str, Any]) -> int:
        """Raises KheishError."""
        for param in self.params:
            param.check(values[param.name])
        module, _, function = self.target.partition(":")
        status = getattr(import_module(f"kheish.cli.{module}"), function)(**values)
        return int(status or 0)

    def parse(self, argv: list[str]) -> dict[str, Any] | None:
        """The values of a plain command line. None for anything else: help, abbreviations, mistakes."""
        values: dict[str, Any] = {p.name: ([] if p.many else p.default) for p in self.params}
        by_flag = {flag: p for p in self.params for flag in p.flags}
        arguments = [p for p in self.params if not p.flags]
        items = iter(argv)
        for item in items:
            if item.startswith("-") and item != "-":
                flag, equals, given = item.partition("=")
                param = by_flag.get(flag)
                if param is None or (equals and not flag.startswith("--")):
                    return None
                if param.kind is bool:
                    if equals:
                        return None
                    values[param.name] = True
                    continue
                text = given if equals else next(items, None)
                value = _convert(param, text)
                if value is None:
                    return None
                if param.many:
                    values[param.name].append(value)
                else:
                    values[param.name] = value
            elif not arguments:
                return None
            elif arguments[0].many:
                values[arguments[0].name].append(item)
            else:
                value = _convert(arguments[0], item)
                if value is None:
                    return None
                values[arguments.pop(0).name] = value
        if any(p.default is REQUIRED and values[p.name] in (REQUIRED, []) for p in self.params):
            return None
        return values


def _convert(param: Param, text: str | None) -> Any:
    if text is None or (param.choices and text not in param.choices):
        return None
    try:
        return param.kind(text)
    except ValueError:
        return None
