"""Network families, one per file; importing this package registers them for `create_model` and for files."""

from tailcut.models.lenet5 import LeNet5 as LeNet5
from tailcut.models.lenet300 import LeNet300 as LeNet300
from tailcut.models.unet import UNet as UNet
