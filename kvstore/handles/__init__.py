"""The ways a program holds a store: in its own process, on a cluster, or by its files alone."""
