"""The replicated store: commands, durable log, SQLite state machine, and the nodes that run them."""
