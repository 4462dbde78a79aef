"""The entry point. Commands that people and scripts call all day go a quick way past Typer; both ways read one table.

Exit status: 0 ok, 1 general, 2 wrong usage or invalid, 3 the daemon cannot be reached, 4 not allowed, 5 not found,
6 conflict, 7 try again, 20 run failed, 21 cancelled or interrupted, 22 waiting for a human, 23 a replay departs,
124 timeout, 130 Ctrl-C.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    try:
        _main()
    except KeyboardInterrupt:
        os._exit(130)


def _main() -> None:
    """What it loads it loads in here: Ctrl-C may come at any time, and says nothing."""
    from kheish.cli.table import find_command

    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - closed before us: nobody reads it
        getattr(sys, name).reconfigure(errors="backslashreplace")
    argv = sys.argv[1:]
    if not argv and sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty():
        argv = ["tui"]
    status = run(argv)
    found = find_command(argv)
    if found is not None and found[0].hot:
        # All is flushed, and to take the interpreter apart costs more than the daemon's answer.
        os._exit(status)
    sys.exit(status)


def run(argv: list[str]) -> int:
    """Runs a command line; returns its exit status."""
    from kheish.cli.table import find_command
    from kheish.errors import KheishError

    try:
        found = find_command(argv)
        values = found[0].parse(found[1]) if found else None
        if found is not None and values is not None:
            status = found[0].run(values)
        else:
            from kheish.cli.typer_app import read_line

            read = read_line(argv)
            status = read if isinstance(read, int) else read[0].run(read[1])
        sys.stdout.flush()
        return status
    except KheishError as error:
        from kheish.cli.output import fail

        return fail(error)
    except BrokenPipeError:
        # The reader of our output went away, as `head` does; say nothing, now or at exit.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 141
    except OSError as error:
        from kheish.cli.output import say
        from kheish.terminal import clean

        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - what it still holds may be what failed
        say(clean(f"kheish: cannot go on: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}"))
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    main()
