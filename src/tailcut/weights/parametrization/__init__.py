"""Parametrisation of a parameter by its first DCT coefficients: on a module, off it, and found in a network."""
