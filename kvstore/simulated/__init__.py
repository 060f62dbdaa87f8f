"""The store in the simulator: real nodes and state machines, simulated clients, and the judgement of what they saw."""
