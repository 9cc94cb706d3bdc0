"""Networks of few layers among torchvision's: what is checked of any network takes a fraction of the time with them.

They are known in the process that imports this alone; kernels and processes of their own take conftest's TINY.
"""

from collections import OrderedDict

from torch import nn
from torchvision.models import ResNet18_Weights
from torchvision.models._api import register_model

TINYNET, WIDER, PLAIN = "tinynet", "tinynet_wider", "tinynet_plain"


def _layers(width):
    """Two convolutions with batch normalisation, and a linear layer."""
    return OrderedDict(
        conv1=nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False),
        bn1=nn.BatchNorm2d(width),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
        bn2=nn.BatchNorm2d(2 * width),
        relu2=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(2 * width, 1000),
    )


def tinynet(weights: ResNet18_Weights | None = None):
    return nn.Sequential(_layers(8))


def tinynet_wider(weights: ResNet18_Weights | None = None):
    return nn.Sequential(_layers(16))


def tinynet_plain(weights: ResNet18_Weights | None = None):
    """Without batch normalisation, which looks at all images of a batch together."""
    return nn.Sequential(OrderedDict((name, layer) for name, layer in _layers(8).items() if not name.startswith("bn")))


# what torchvision asks of its own: the weights that there are, whose normalisation is ImageNet's, and the module
for builder in (tinynet, tinynet_wider, tinynet_plain):
    builder.__module__ = "torchvision.models.tinynet"
    register_model()(builder)
