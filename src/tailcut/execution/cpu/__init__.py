"""The CPU engines: tiles in torch, and loops compiled by numba."""
