"""Running truncated networks exactly, without their dense weights.

A truncated weight W[o, i, kernel] = sum of outward[o, a] core[a, b, kernel] inward[b, i] has few cosines a and b. So a
layer projects its input on the cosines b, runs the core, and its wide output is known by the few numbers a per
pixel, through batch norm, activation, pooling and concatenation, up to the next projection.

The way of a forward, one module each:

- `network.fuse` makes a view of the network in which regularised layers are `layers.NarrowLayer`;
- a layer decides by `cost` and `geometry`, and gives a `narrow.LazyMap`, which passes for a tensor;
- `operations` and `normalization` say what torch's functions make of narrow maps: `expression` trees;
- the next layer projects the tree with `tiles` (or with compiled loops: `programs`, `program_calls`, `unrolled`);
- `context` is the state of one forward, of which `report` tells.
"""

from tailcut.execution.wrapper.network import FusedNetwork as FusedNetwork
from tailcut.execution.wrapper.network import fuse as fuse
from tailcut.execution.wrapper.network import pays_in_training as pays_in_training
from tailcut.execution.wrapper.report import FuseReport as FuseReport
