"""Widgets, each with its messages and its CSS. None of them knows the daemon."""
