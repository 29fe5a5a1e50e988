"""Compression of trained networks: the smallest file for an allowed loss, without training or by it."""

from tailcut.compression.compress import CompressReport as CompressReport
from tailcut.compression.compress import compress as compress
from tailcut.compression.fisher import measure_sensitivity as measure_sensitivity
from tailcut.compression.rate_loss import RateLoss as RateLoss
