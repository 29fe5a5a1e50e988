"""Compression of trained networks: the smallest file for an allowed loss, without training or by it."""

from tailcut.compression.post_training.compress import CompressReport as CompressReport
from tailcut.compression.post_training.compress import compress as compress
from tailcut.compression.rate.rate_loss import RateLoss as RateLoss
from tailcut.compression.sensitivity.fisher import measure_sensitivity as measure_sensitivity
