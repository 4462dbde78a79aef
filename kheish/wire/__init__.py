"""PURE: the public JSON shapes, one file per noun. Imports the core and the foundations."""
