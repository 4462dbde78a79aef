"""The terminal application: `kheish`, `kheish tui`, `kheish attach NAME`.

It reaches the daemon through the client alone, and owns nothing: leaving it stops nothing. `link` brings what happens,
`live` folds it, screens show it, and a widget only draws and posts messages. It may import `client`,
the foundations, and `store.atomic` for its own files.
"""
