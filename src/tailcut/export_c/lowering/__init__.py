"""From torch's operations to a program.

- `lowering`: the walk over a traced network, with its state;
- `operations`: what becomes of each operation of torch;
- `heads`: attention found in the graph, whatever it is written with;
- `graph`: names of nodes, changes in place, means that are one;
- `sequences`: the axes of maps, those of networks along one axis as maps of one row or column.
"""
