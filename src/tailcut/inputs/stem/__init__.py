"""Stems: a network that reads pixels becomes one that reads frequency channels."""
