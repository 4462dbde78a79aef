"""The API under schemathesis: requests made from its own description, sent to a real daemon over its Unix socket.

`world.py` is the daemon and what really exists in it, `wire.py` the socket, `judge.py` what is asked and what is wrong.
"""
