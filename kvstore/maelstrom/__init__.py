"""The node on standard input and output."""
