"""Experiments: variants of a recipe over several seeds, and their sweeps."""
