"""Deliberate bugs: each a small patch of the real code, to prove that the simulator would find it."""
