"""Stem replacement: turns a network that reads pixels into one that reads frequency channels."""
