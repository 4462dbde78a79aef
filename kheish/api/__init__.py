"""The HTTP face of the daemon: a route table, endpoints by noun, streams. Imports runtime, wire and below."""
