"""A process that serves: one node on an event loop, its peers over TCP, its clients."""
