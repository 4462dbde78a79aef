"""The process: start order, wiring, life cycle, logs. The only package that knows every room."""
