"""One file per noun: what the API does for it."""
