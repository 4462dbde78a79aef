"""The console script."""

from kheish import __version__


def main() -> None:
    print(__version__)
