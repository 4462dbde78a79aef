"""The command line: one file per noun, a lazy table of groups. Reaches the daemon through the client alone.

What a quick command loads is held small. `TYPE_CHECKING = False` stands for the constant of `typing`, a module that
costs a third of a bare Python start; type checkers know it by its name.
"""
