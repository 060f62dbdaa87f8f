"""apply(slot, entry) -> result, on SQLite."""
