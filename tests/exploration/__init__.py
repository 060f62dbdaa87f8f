"""Every state that a tiny cluster of real replicas can get into, examined one by one."""
