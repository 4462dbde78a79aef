"""`python -m tests.benchmarks [NAME ...] [--count N] [--dir DIR] [--json]`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks import baselines, cli, disk, kernel, providers, restart, screens, serving, soak, store, tui
from tests.benchmarks.figures import Figure, show

FAMILIES = (kernel, cli, providers, store, disk, restart, serving, tui, screens, soak)
COUNT = 200
SCENES = {name: scene for family in FAMILIES for name, scene in family.SCENES.items()}


def chosen(name: str) -> list[str]:
    """A scene by its name, or all of a group: `store` is every `store.*`."""
    return [scene for scene in SCENES if scene == name or scene.startswith(f"{name}.")]


def measure(names: list[str], count: int | None, directory: str | None) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="kheish-bench-", dir=directory) as made:
        folder = Path(made)
        yield baselines.fdatasync(folder, count or COUNT)
        for name in names or SCENES:
            for scene in chosen(name):
                yield from SCENES[scene](folder, count or soak.COUNTS.get(scene, COUNT))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to measure: {', '.join(SCENES)}")
    parser.add_argument("--count", type=int, help=f"samples of the quick figures ({COUNT}), or minutes of a soak (1)")
    parser.add_argument("--dir", help="where the state roots go: the file system that is measured")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    unknown = [name for name in options.names if not chosen(name)]
    if unknown:
        parser.error(f"there is no scene {unknown[0]}: choose of {', '.join(SCENES)}")
    figures = []
    for figure in measure(options.names, options.count, options.dir):
        figures.append(figure)
        print(f"  {figure.name}: {figure.median:.3g} {figure.unit}", file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps([figure.to_json() for figure in figures]))
    else:
        print(f"Python {platform.python_version()}, {os.cpu_count()} processors, {platform.system()}")
        print(show(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
