"""Networks where Python is not: a C99 reader of `.tailcut` files and, for one network, a C99 program that runs it.

- `runtime/` holds the C files, which ship with the package; `sources` says where they are;
- `description` tells a C program what network a file shall fill; `description_text` as a constant;
- `export` writes a network as C: `lowering/` makes a program of what torch traced, `program/` is that and the places of
  its maps, `writing/` writes it down; `integer/` has the same for integers, and runs them in Python too.
"""

from tailcut.export_c.description import NetworkDescription as NetworkDescription
from tailcut.export_c.description import describe as describe
from tailcut.export_c.description_text import description_text as description_text
from tailcut.export_c.export import CExportReport as CExportReport
from tailcut.export_c.export import export_c as export_c
from tailcut.export_c.export import integer_program_of as integer_program_of
from tailcut.export_c.integer import simulate as simulate
from tailcut.export_c.integer_network import IntegerNetwork as IntegerNetwork
from tailcut.export_c.sources import reader_sources as reader_sources
from tailcut.export_c.sources import runtime_folder as runtime_folder
