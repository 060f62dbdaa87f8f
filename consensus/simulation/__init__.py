"""A cluster in a bottle: real replicas in virtual time, with a virtual network, disks and clocks, all from one seed."""
