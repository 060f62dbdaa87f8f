"""The whole program on virtual time: its event loop, network, threads, clocks and disks, driven by a seed."""
