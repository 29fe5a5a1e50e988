"""The integer way of networks in C: every number of 16 or 32 bits, for processors without a floating-point unit.

`docs/integer-arithmetic.md` gives the arithmetic; `simulate` runs it in Python, bit for bit as
`runtime/tailcut_run_integer.c` does.

- `arithmetic`: roundings, cosines, scaled numbers;
- `weights`: how stored numbers become weights of 16 bits;
- `program`: a program whose convolutions read one map each, with all shifts chosen;
- `memory`, `tables`, `writing`: as those of `export_c` for float32.
"""

from tailcut.export_c.integer.program import IntegerProgram as IntegerProgram
from tailcut.export_c.integer.program import integer_program as integer_program
from tailcut.export_c.integer.simulate import IntegerOutput as IntegerOutput
from tailcut.export_c.integer.simulate import simulate as simulate
