"""The tools a model may use on the workspace: each is code with its prose beside it.

Imports the ports, the core and the foundations.
"""
