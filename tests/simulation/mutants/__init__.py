"""Deliberate bugs, each a small patch of the real code, which prove that the simulator would find such bugs."""
