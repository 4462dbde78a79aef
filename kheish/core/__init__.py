"""The pure session machine: events, state, and the rules between them.

Imports only the foundations and msgspec. No clock, randomness, I/O or asyncio: time, ids and results arrive as fields.
"""
