"""Secrets: values that the daemon keeps sealed on its disk and hands to what needs them, and to nobody else.

It may import the store and what is below; the rooms that use a secret know only how to ask for one by name.
"""
