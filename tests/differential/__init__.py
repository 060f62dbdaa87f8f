"""The same random input to the compiled modules and to their sources, for the same answers."""
