"""From torch's operations to a program.

- `lowering`: the walk over a traced network, with its state;
- `operations`: all handlers by name, those of `activations`, `attention`, `layers`, `norms`, `pointwise`, `recurrent`,
  `resizing` and `permutation`;
- `edges`, `places`: for several of these, zeros around maps, their largest numbers, their later rows; numbers for each
  place, maps one behind the other;
- `heads`: attention found in the graph, whatever it is written with;
- `graph`: names of nodes, changes in place, means that are one;
- `sequences`: the axes of maps, those of networks along one axis as maps of one row or column.
"""
