"""The command line: one file per noun, a lazy table of groups. Reaches the daemon through the client alone."""
