"""The table of tools: a new tool is one module (with its prose beside it) and one row."""

from __future__ import annotations

from importlib import import_module

from kheish.runtime.ports import Tool

TOOLS = (
    "read_file",
    "list_files",
    "glob_search",
    "grep_search",
    "write_file",
    "edit_file",
    "bash",
    "ask_user_question",
    "todo_write",
)


def load_tools() -> dict[str, Tool]:
    """Every tool by its name, in the order in which models see them."""
    return {name: import_module(f"kheish.tools.{name}").TOOL for name in TOOLS}
