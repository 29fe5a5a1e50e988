"""From torch's operations to a program.

- `lowering`: the walk over a traced network, with its state;
- `operations`: all handlers by name, those of `layers`, `pointwise` and `resizing`;
- `edges`: zeros around maps, their largest numbers, their later rows, for several of these;
- `sequences`: networks along one axis as maps of one row or column.
"""
