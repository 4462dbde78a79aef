"""The effectful kernel: actors, the reconciler, the hub. Imports store, wire, core and the foundations; the rooms
come in through `ports`."""
