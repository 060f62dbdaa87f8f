"""``kvstore repl``: the interactive prompt."""
