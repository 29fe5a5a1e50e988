"""Lossless codecs for the payloads of a `.tailcut` file: raw, DEFLATE over byte planes, and a range coder.

`best` tries them all and says which gives the shortest payload; `decode` undoes it from the codec's number.
The laws that every codec keeps are stated in `Codec`; the bytes of each are specified in its own docstring.
"""

from .codec import Codec as Codec
from .registry import CODECS as CODECS
from .registry import DEFLATE as DEFLATE
from .registry import best as best
from .registry import check_known as check_known
from .registry import decode as decode
