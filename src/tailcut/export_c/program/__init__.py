"""A network as a C program runs it.

- `program`: passes over rows, whose inputs are expressions of maps in memory;
- `pooling`: outputs that are stored pooled;
- `memory`: the places of maps in the arena;
- `weights`: coefficients and dense weights, in the narrowest type that holds them;
- `coded`: the code of whole coefficients.
"""
