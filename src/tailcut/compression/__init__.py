"""What a trained network's numbers are worth: the smallest file for the loss that is allowed."""

from tailcut.compression.compress import CompressReport as CompressReport
from tailcut.compression.compress import compress as compress
from tailcut.compression.fisher import measure_sensitivity as measure_sensitivity
from tailcut.compression.rate_loss import RateLoss as RateLoss
