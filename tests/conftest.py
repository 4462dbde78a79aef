"""Shared by all tests."""

from __future__ import annotations

# Its pytest plugin imports the rest of it after the last test, deep in the stack, where the parser of CPython 3.11 may
# fail (gh-106905); what is imported now is not imported then.
import hypothesis  # noqa: F401
