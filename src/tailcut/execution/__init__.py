"""Running truncated networks exactly, without their dense weights.

A truncated weight W[o, i, kernel] = sum of outward[o, a] core[a, b, kernel] inward[b, i] has few cosines a and b. So a
layer projects its input on the cosines b, runs the core, and its full output is known by the few numbers a per pixel,
through batch norm, activation, pooling and concatenation, up to the next projection.

From `fuse` to a forward: `wrapper.network.fuse` makes a `FusedNetwork`, whose `wrapper.programs` are two shallow copies
of the module tree (`layers.module_copy`): in the dense one truncated layers hold dense weights, in the fused one they
are `layers.fused_layer.FusedLayer`. Each call asks `wrapper.guard` whether the tree is still the one that was copied,
and `wrapper.decisions` how calls like it run; a new kind of call is probed, and `wrapper.snapshot` takes the probe back
if it does not pay. In the fused program a layer chooses one of `layers.strategies` by the sizes in `ir.geometry` and
the seconds in `ir.cost`, multiplies with the factors of `layers.factorization`, and gives a `lazy.lazy_map.LazyMap`,
which passes for a tensor. `lazy.operations` and `lazy.normalization` say what torch's functions make of it: a tree of
`ir.expression`. The next layer projects that tree tile by tile, with torch (`cpu.tiles`) or with compiled loops
(`ir.programs`, `cpu.program_calls`, `cpu.codegen`). `lazy.context` is the state of one forward, and
`wrapper.report` tells of it. `onnx` exports the same factors without any of this.
"""

from tailcut.execution.wrapper.network import FusedNetwork as FusedNetwork
from tailcut.execution.wrapper.network import fuse as fuse
from tailcut.execution.wrapper.network import pays_in_training as pays_in_training
from tailcut.execution.wrapper.report import FuseReport as FuseReport
