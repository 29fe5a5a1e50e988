"""How large and how long the benchmarks are: in full, quick, or tiny (for the tests)."""

from collections.abc import Mapping
from dataclasses import dataclass

from tailcut.structure.wire import Value


@dataclass(frozen=True)
class Scale:
    """Sizes and repetitions.

    Attributes:
        max_repetitions: the most runs of each candidate.
        budget_s: seconds after which a comparison begins no new round.
        unet_widths: channels of the UNet at each of its scales.
        matrix_size: side of the matrix in the sweep over kept cosines.
        axis_sizes: lengths of an axis in the sweep over full transforms.
        numbers: about how many numbers a tensor of the sweeps has.
        image_size: side of the images the UNet is trained on.
        lenet_batches: batch sizes LeNet-5 is trained with.
        limit_size: side of the matrices whose product measures the machine.
        limit_bytes: size of the copy that measures the machine.
        kernel_sizes: sides of the kernels in the sweep over kernels.
        photos: images of Table 5, by the way in which the network runs.
        photo_size: their height and width.
        large_image: width and height of the image that measures memory.
        clock: "wall" or "processor", see `bench.timing`.
    """

    max_repetitions: int
    budget_s: float
    unet_widths: tuple[int, ...]
    matrix_size: int
    axis_sizes: tuple[int, ...]
    numbers: int
    image_size: int
    lenet_batches: tuple[int, ...]
    limit_size: int
    limit_bytes: int
    kernel_sizes: tuple[int, ...]
    photos: Mapping[str, int]
    photo_size: tuple[int, int] = (640, 959)
    large_image: tuple[int, int] = (1500, 1000)
    clock: str = "wall"

    @property
    def is_full(self) -> bool:
        """Whether this is the scale of the published tables."""
        return self.unet_widths == FULL.unet_widths

    @property
    def is_tiny(self) -> bool:
        """Whether this is the scale of the tests, which try the code alone."""
        return self.unet_widths == TINY.unet_widths

    def unet_arguments(self) -> dict[str, Value]:
        """Return the published UNet's arguments, at this scale's widths."""
        return {"widths": self.unet_widths, "bias": False, "affine": False, "running_stats": False}


FULL = Scale(
    max_repetitions=15,
    budget_s=20.0,
    unet_widths=(64, 128, 256, 512, 1024),
    matrix_size=1024,
    axis_sizes=(64, 96, 128, 160, 192, 224, 256, 320, 384, 512, 768, 1024, 2048, 4096),
    numbers=1 << 20,
    image_size=96,
    lenet_batches=(16, 256),
    limit_size=2048,
    limit_bytes=1 << 28,
    kernel_sizes=(2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16),
    photos={"fused": 32, "dense": 6},
    large_image=(6000, 4000),
)
QUICK = Scale(
    max_repetitions=5,
    budget_s=2.0,
    unet_widths=(64, 128, 256),
    matrix_size=512,
    axis_sizes=(128, 192, 256, 384, 512),
    numbers=1 << 18,
    image_size=48,
    lenet_batches=(16,),
    limit_size=1024,
    limit_bytes=1 << 26,
    kernel_sizes=(3, 5, 8, 11),
    photos={"fused": 4, "dense": 2},
)
TINY = Scale(
    max_repetitions=2,
    budget_s=0.0,
    unet_widths=(8, 16),
    matrix_size=32,
    axis_sizes=(16, 32),
    numbers=1 << 10,
    image_size=16,
    lenet_batches=(2,),
    limit_size=64,
    limit_bytes=1 << 16,
    kernel_sizes=(3,),
    photos={"fused": 2},
    photo_size=(32, 48),
    large_image=(96, 64),
)
