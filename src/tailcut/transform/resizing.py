"""Images at another size."""

from torch import Tensor
from torch.nn.functional import interpolate


def resized(images: Tensor, height: int, width: int) -> Tensor:
    """Resize images (n, channels, height, width), bilinear with antialiasing; bytes to whole grey levels."""
    if images.shape[-2:] == (height, width):
        return images
    # Of bytes torch gives wrong columns, or none, where the result is one pixel wide.
    in_float = width == 1 and not images.is_floating_point()
    source = images.float() if in_float else images
    found: Tensor = interpolate(source, (height, width), mode="bilinear", antialias=True)
    return found.round().to(images.dtype) if in_float else found
