"""Codecs 3 to 5: numbers rounded to steps, and their adaptive code. `coder` handles bytes, `values` their meaning."""

from tailcut.format.quantized.coder import MAX_MAGNITUDE as MAX_MAGNITUDE
from tailcut.format.quantized.coder import NUMBERS as NUMBERS
from tailcut.format.quantized.coder import Coded as Coded
from tailcut.format.quantized.coder import Decoder as Decoder
from tailcut.format.quantized.coder import Encoder as Encoder
from tailcut.format.quantized.coder import Layout as Layout
from tailcut.format.quantized.coder import check_codable as check_codable
from tailcut.format.quantized.coder import codec_number as codec_number
from tailcut.format.quantized.coder import decode as decode
from tailcut.format.quantized.coder import encode as encode
from tailcut.format.quantized.values import dequantize as dequantize
