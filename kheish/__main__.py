"""`python -m kheish` is the console script."""

from kheish.cli.main import main

if __name__ == "__main__":
    main()
