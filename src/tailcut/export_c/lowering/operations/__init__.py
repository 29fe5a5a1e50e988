"""Torch's operations as parts of a program, a family a module.

- `table`: all handlers by name, those of `activations`, `attention`, `layers`, `norms`, `permutation`, `pointwise`,
  `recurrent`, `resizing` and `shapes`;
- `edges`, `places`: for several of these, zeros around maps, their largest numbers, their later rows; numbers for each
  place, maps one behind the other.
"""
