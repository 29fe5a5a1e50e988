"""Learning in the Frequency Domain: networks that read the DCT of an image instead of its pixels.

K. Xu, M. Qin, F. Sun, Y. Wang, Y.-K. Chen, F. Ren: "Learning in the Frequency Domain", CVPR 2020 (arXiv 2002.12416).

| section                                             | function                                              |
|-----------------------------------------------------|-------------------------------------------------------|
| 3.1, figure 2: YCbCr, DCT, reshape, select          | `BlockDCT.forward` (block_dct.py)                     |
| 3.1, 4.1: mean and variance of each channel         | `BlockDCT.fit` (input_transform.py)                   |
| 3.1, figure 3: the network without its input layers | `replace_stem` (replace.py)                           |
| 3.2, figure 4: the gate                             | `FrequencyGate` (gate.py)                             |
| 3.2: the loss with its regulariser                  | `FrequencyGate.penalty`                               |
| 3.3, 4.2: static selections S and T                 | `Selection.of`, `square`, `triangle` (selection.py)   |
| 3.3, 4.2: a gate's selection D                      | `Selection.learned`, `Selection.top`                  |
| 3.3, figure 5: heat maps                            | `FrequencyGate.activity`, `draw_heat_maps`            |

Known deviations:

- The published code gets coefficients from a JPEG encoder. Here they are a float block DCT of planes that are never
  rounded; the difference is that rounding. Its chroma, of the image enlarged by 2 and subsampled 4:2:0, is computed
  without enlarging anything (`tailcut.inputs.jpeg.chroma`); the result is the same.
- Statistics are the spread over all pixels of all images. The published constants are the spread of means per
  image, so that normalised channels reach a spread of 20 to 74; here it is 1.
- The paper gives no table for DCT-12S, and none for its triangles: `Selection.of(12)` and `triangle` follow the pattern
  of the others. The 24 channels of DCT-24D stand commented out in the published code (`Selection.learned`). The tables
  count row-major, the paper's figure in zigzag order; ours print both.
- The gate draws noise in training only, its temperature counts, and its penalty is the mean probability; see
  `FrequencyGate`.

Beyond the paper: `read_jpeg` and `BlockDCT.from_coefficients` take the coefficients that a JPEG file stores;
`augmentation` changes them without decoding,
and `JpegFolder` loads channels in workers. `transplant_stem` fits the new first layer to the old stem's features;
`convert_patch_embedding` turns that of a vision transformer exactly.
`use_ycbcr` is a baseline: the colours of JPEG files without the DCT.
"""

from tailcut.inputs import detection as detection
from tailcut.inputs.energy import FrequencyReport as FrequencyReport
from tailcut.inputs.energy import describe_image as describe_image
from tailcut.inputs.energy import frequency_energy as frequency_energy
from tailcut.inputs.energy import reconstruction_errors as reconstruction_errors
from tailcut.inputs.jpeg import augmentation as augmentation
from tailcut.inputs.jpeg.reader import JpegCoefficients as JpegCoefficients
from tailcut.inputs.jpeg.reader import read_jpeg as read_jpeg
from tailcut.inputs.loading import JpegFolder as JpegFolder
from tailcut.inputs.loading import make_loader as make_loader
from tailcut.inputs.plots import draw_channels as draw_channels
from tailcut.inputs.plots import draw_frequency_map as draw_frequency_map
from tailcut.inputs.plots import draw_heat_maps as draw_heat_maps
from tailcut.inputs.plots import draw_image as draw_image
from tailcut.inputs.plots import draw_reconstruction as draw_reconstruction
from tailcut.inputs.selection.gate import FrequencyGate as FrequencyGate
from tailcut.inputs.selection.gate import GateActivity as GateActivity
from tailcut.inputs.selection.selection import Selection as Selection
from tailcut.inputs.selection.selection import square as square
from tailcut.inputs.selection.selection import triangle as triangle
from tailcut.inputs.stem.edit import transform_of as transform_of
from tailcut.inputs.stem.patch_embedding import convert_patch_embedding as convert_patch_embedding
from tailcut.inputs.stem.replace import StemReport as StemReport
from tailcut.inputs.stem.replace import describe_stem as describe_stem
from tailcut.inputs.stem.replace import replace_stem as replace_stem
from tailcut.inputs.stem.transplant import TransplantReport as TransplantReport
from tailcut.inputs.stem.transplant import transplant_stem as transplant_stem
from tailcut.inputs.stem.ycbcr import YCbCrPixels as YCbCrPixels
from tailcut.inputs.stem.ycbcr import use_ycbcr as use_ycbcr
from tailcut.inputs.transform.block_dct import BlockDCT as BlockDCT
from tailcut.inputs.transform.statistics import ChannelStatistics as ChannelStatistics
from tailcut.structure import image_shorter_side as image_shorter_side
from tailcut.structure import image_size as image_size
from tailcut.structure import set_image_size as set_image_size
