"""Valid requests without end against real nodes: nobody may die, wait long, or differ. ``python -m tests.fuzz``."""
