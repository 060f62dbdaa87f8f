"""The whole program on virtual time: its event loop, sockets and disks."""
