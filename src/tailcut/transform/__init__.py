"""Tensor-to-tensor mathematics of the frequency domain: no modules, no files."""

from tailcut.transform.dct import dct as dct
from tailcut.transform.dct import dct_basis as dct_basis
from tailcut.transform.dct import idct as idct
from tailcut.transform.order import l1_order as l1_order
from tailcut.transform.order import l1_rank as l1_rank
