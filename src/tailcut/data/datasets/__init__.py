"""Data sets, one module each: where its files lie, and how they are read."""
