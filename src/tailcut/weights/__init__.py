"""Frequency Regularization: network weights stored and trained as truncated DCT coefficients.

C. Zhao, G. Dong, S. Zhang, Z. Tan, A. Basu: "Frequency Regularization: Reducing Information Redundancy in
Convolutional Neural Networks", IEEE Access 11, 2023, doi:10.1109/ACCESS.2023.3320642 (arXiv 2304.07973).

| equation                                       | function                                             |
|------------------------------------------------|------------------------------------------------------|
| (1), (2): W = IDCT(T * 1[|x|_1 < eps])         | `Truncation.forward` (parametrization/truncation.py) |
| (3): Z = F(T_W) X + F(T_B)                     | `regularize` (include "*.bias" for the second)       |
| beta_n = beta_(n-1) - gamma (beta_(n-1) - eps) | `TailTruncation.step` (schedule.py)                  |

Known deviations: the transform is orthonormal (the paper's equations have bare cosines, its published code is
orthonormal; this only rescales what is learned). The cut is by count in a total order (L1 norm, ties
lexicographic), so that any number of coefficients can be kept, not only whole diagonals; the published
network agrees with this order.
"""

from tailcut.weights.initialization import initialize_coefficients as initialize_coefficients
from tailcut.weights.initialization import initialize_norms as initialize_norms
from tailcut.weights.initialization import lsuv_init as lsuv_init
from tailcut.weights.nested_levels import NestedLevels as NestedLevels
from tailcut.weights.parametrization.truncated_tensors import TruncatedTensor as TruncatedTensor
from tailcut.weights.parametrization.truncated_tensors import kept_counts as kept_counts
from tailcut.weights.parametrization.truncated_tensors import truncated_tensors as truncated_tensors
from tailcut.weights.parametrization.truncated_tensors import truncation_of as truncation_of
from tailcut.weights.planning.budget import budget as budget
from tailcut.weights.regularization.norms import norm_counts as norm_counts
from tailcut.weights.regularization.norms import truncate_norms as truncate_norms
from tailcut.weights.regularization.regularize import RegularizationReport as RegularizationReport
from tailcut.weights.regularization.regularize import regularize as regularize
from tailcut.weights.regularization.regularize import to_dense as to_dense
from tailcut.weights.resampling import ResamplingReport as ResamplingReport
from tailcut.weights.resampling import resample as resample
from tailcut.weights.schedule import TailTruncation as TailTruncation
from tailcut.weights.schedule import steps_to_reach as steps_to_reach
