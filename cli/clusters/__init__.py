"""The commands about clusters: run one, look at one, measure one."""
