"""A cluster in a bottle: real replicas on virtual time, network, disks and clocks, everything drawn from one seed."""
