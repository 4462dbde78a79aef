"""The API as methods, sync and async. Imports the foundations only; starts the daemon if there is none."""
