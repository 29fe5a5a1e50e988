"""Channel pruning by scores of the frequency domain: CFDP.

S. Khaki, W. Luo: "CFDP: Common Frequency Domain Pruning", CVPR Workshops 2023 (arXiv 2306.04147).

| equation                                            | function                                                    |
|-----------------------------------------------------|-------------------------------------------------------------|
| (3): mean over images                             | `score` (score.py)                                          |
| (4): Gaussian filter                                | `gaussian_matrix` (gaussian.py)                             |
| (5), (6): block DCT without factors                 | `Blocks.axis_matrix` (blocks.py)                            |
| (7) spectral, (8) dist, (9) their product, (10) spatial | `map_parts` (formulas.py)                               |
| (12): L = L_Fq + lambda L_Sp                        | `Formula.combine` (formulas.py)                             |
| figure 1: sorted scores                             | `draw_scores` (plots.py)                                  |
| algorithm 1: what is kept and what goes             | `prune` (prune.py), at the rates of `PAPER_RATES` (rates.py) |

Known deviations. The paper gives no sigma for its filter: ours is 1 pixel, with the border and the reach of SciPy's.
It counts 2 M / B blocks in a map where it means (M / B)^2; what does not fill a block forms smaller blocks here.
Section 3.4 says that the spatial part is of a lower scale than the frequency part: it is lower than `spectral`, but not
than its product with `dist`, which is 0.1 to 0.25 in the maps of a ResNet-56. Algorithm 1 as printed keeps the channels
with the lowest scores; they are the ones to prune. The authors' code differs from the paper (`variant="published"`; see
`Formula`); as it is published, with its default options, it scores the maps of the first ReLU for every layer of a
ResNet-56, which is not copied. Both score convolutions; here linear layers can be scored too, by name.
"""

from tailcut.channels.pruning.part import prune_part as prune_part
from tailcut.channels.pruning.prune import prune as prune
from tailcut.channels.pruning.rates import PAPER_RATES as PAPER_RATES
from tailcut.channels.pruning.report import PruneReport as PruneReport
from tailcut.channels.scoring.formulas import Formula as Formula
from tailcut.channels.scoring.formulas import MapParts as MapParts
from tailcut.channels.scoring.formulas import map_parts as map_parts
from tailcut.channels.scoring.formulas import map_scores as map_scores
from tailcut.channels.scoring.importance import SpectralImportance as SpectralImportance
from tailcut.channels.scoring.plots import draw_maps as draw_maps
from tailcut.channels.scoring.plots import draw_scores as draw_scores
from tailcut.channels.scoring.published_scores import read_score_folder as read_score_folder
from tailcut.channels.scoring.recalibration import recalibrate as recalibrate
from tailcut.channels.scoring.score import score as score
from tailcut.channels.scoring.scores import Scores as Scores
