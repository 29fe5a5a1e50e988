"""Frequency Regularization: network weights stored and trained as truncated DCT coefficients.

C. Zhao, G. Dong, S. Zhang, Z. Tan, A. Basu: "Frequency Regularization: Reducing Information Redundancy in
Convolutional Neural Networks", IEEE Access 11, 2023, doi:10.1109/ACCESS.2023.3320642 (arXiv 2304.07973).

| equation                                  | function                                           |
|-------------------------------------------|----------------------------------------------------|
| (1), (2): W = IDCT(T * 1[|x|_1 < eps])    | `Truncation.forward` (truncation.py)               |
| (3): Z = F(T_W) X + F(T_B)                | `regularize` (include "*.bias" for the second)     |
| beta_n = beta_(n-1) - gamma (beta_(n-1) - eps) | `TailTruncation.step`                         |

Known deviations: the transform is orthonormal (the paper's equations have bare cosines, its published code is
orthonormal; this only rescales what is learned). The cut is by count in a total order (L1 norm, ties
lexicographic), so that any number of coefficients can be kept, not only whole diagonals; the published
network agrees with this order.
"""

from tailcut.weights.access import TruncatedTensor as TruncatedTensor
from tailcut.weights.access import computed_attributes as computed_attributes
from tailcut.weights.access import kept_counts as kept_counts
from tailcut.weights.access import truncated_tensors as truncated_tensors
from tailcut.weights.access import truncation_of as truncation_of
from tailcut.weights.budget import budget as budget
from tailcut.weights.lsuv import lsuv_init as lsuv_init
from tailcut.weights.nested import NestedLevels as NestedLevels
from tailcut.weights.norms import initialize_norms as initialize_norms
from tailcut.weights.norms import norm_counts as norm_counts
from tailcut.weights.norms import truncate_norms as truncate_norms
from tailcut.weights.regularize import RegularizationReport as RegularizationReport
from tailcut.weights.regularize import regularize as regularize
from tailcut.weights.regularize import to_dense as to_dense
from tailcut.weights.resampling import ResamplingReport as ResamplingReport
from tailcut.weights.resampling import resample as resample
from tailcut.weights.schedule import TailTruncation as TailTruncation
from tailcut.weights.schedule import steps_to_reach as steps_to_reach
