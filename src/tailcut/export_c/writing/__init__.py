"""A program as constants: `tables` has the rows of the C structures, `text` writes them as C."""
