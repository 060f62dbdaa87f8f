"""The Redis protocol: how any Redis client talks to a node."""
