"""The files of a node."""
