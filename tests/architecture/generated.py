"""Files that are made from the code. `python -m tests.architecture.generated` makes them anew."""

from __future__ import annotations

from collections.abc import Callable

from kheish.cli import completions
from tests.architecture.modules import REPOSITORY

GENERATED: dict[str, Callable[[], str]] = {
    "completions/kheish.bash": completions.bash,
    "completions/_kheish": completions.zsh,
    "completions/kheish.fish": completions.fish,
    "share/man/man1/kheish.1": completions.manual,
}

if __name__ == "__main__":
    for name, make in GENERATED.items():
        path = REPOSITORY / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(make(), "utf-8")
