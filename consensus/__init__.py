"""Multi-Paxos as a deterministic state machine without I/O: see :class:`consensus.replica.Replica`."""
