"""Network families, one per file; importing this package imports each file, which registers its networks.

But for the LeNets and the UNet, activations are modules, each used once and none in place: hooks see what every
layer gives, and any part can be replaced by another.
"""

import importlib
import pkgutil

from tailcut.models.alexnet import AlexNet as AlexNet
from tailcut.models.dcgan import DCGANDiscriminator as DCGANDiscriminator
from tailcut.models.dcgan import DCGANGenerator as DCGANGenerator
from tailcut.models.densenet_cifar import DenseNet40 as DenseNet40
from tailcut.models.googlenet_cifar import GoogLeNetCIFAR as GoogLeNetCIFAR
from tailcut.models.lenet5 import LeNet5 as LeNet5
from tailcut.models.lenet300 import LeNet300 as LeNet300
from tailcut.models.mobilenet_v1 import mobilenetv1 as mobilenetv1
from tailcut.models.mobilenet_v1 import mobilenetv1_cifar as mobilenetv1_cifar
from tailcut.models.mobilenet_v2 import mobilenetv2 as mobilenetv2
from tailcut.models.mobilenet_v2 import mobilenetv2_cifar as mobilenetv2_cifar
from tailcut.models.resnet import resnet18 as resnet18
from tailcut.models.resnet import resnet34 as resnet34
from tailcut.models.resnet import resnet50 as resnet50
from tailcut.models.resnet import resnet101 as resnet101
from tailcut.models.resnet_cifar import resnet20 as resnet20
from tailcut.models.resnet_cifar import resnet56 as resnet56
from tailcut.models.resnet_cifar import resnet110 as resnet110
from tailcut.models.unet import UNet as UNet
from tailcut.models.vae import VAE as VAE
from tailcut.models.vgg import vgg16 as vgg16
from tailcut.models.vgg import vgg16_bn as vgg16_bn
from tailcut.models.vgg_cifar import vgg16_bn_cifar as vgg16_bn_cifar
from tailcut.models.vgg_cifar import vgg19_bn_cifar as vgg19_bn_cifar
from tailcut.models.vit import VisionTransformer as VisionTransformer

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
