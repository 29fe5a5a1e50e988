"""Small CNNs of a user's own, each with another kind of stem or of first kept module."""

import torch
from torch import Tensor, nn
from torch.nn.functional import relu


def sequence() -> nn.Sequential:
    """Runs all its children: the transform cannot be one of them."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


class Functional(nn.Module):
    """A functional ReLU and a batch norm in the stem."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.body = nn.Conv2d(6, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(relu(self.norm(self.conv(x))))
        logits: Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


class Normalised(nn.Module):
    """Its forward normalises by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(relu(self.conv((x - 0.5) / 0.5)).mean(dim=(2, 3)))
        return logits


class PreActivation(nn.Module):
    """Normalises and activates (functionally) what it reads before the first convolution does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.ModuleList([nn.Conv2d(3, 6, 4, stride=4), nn.PReLU(6)])
        self.norm = nn.GroupNorm(2, 6)
        self.depthwise = nn.Conv2d(6, 12, 3, padding=1, groups=6)
        self.pointwise = nn.Conv2d(12, 5, 1)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        for module in self.stem:
            x = module(x)
        x = self.pointwise(self.depthwise(relu(self.norm(x))))
        logits: Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


class SharedReLU(nn.Module):
    """One ReLU module in the stem and behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.relu = nn.ReLU()
        self.body = nn.Conv2d(6, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.body(self.relu(self.conv(x)))).mean(dim=(2, 3))
        return y


class Residual(nn.Module):
    """A shortcut that no attribute holds, or one that is an empty sequence (`shortcut`)."""

    def __init__(self, *, has_attribute: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 2, stride=2)
        self.block = _Block(has_attribute)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(self.conv(x)).mean(dim=(2, 3))
        return y


class _Block(nn.Module):
    def __init__(self, has_attribute: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        if has_attribute:
            self.shortcut = nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        shortcut: Tensor = self.shortcut(x) if hasattr(self, "shortcut") else x
        y: Tensor = self.conv(x) + shortcut
        return y


class AllInOrder(nn.ModuleDict):
    """Runs its children in order, as torchvision's feature extractors do."""

    def __init__(self) -> None:
        super().__init__({"conv1": nn.Conv2d(3, 6, 8, stride=8), "layer1": nn.Conv2d(6, 5, 3), "layer2": nn.ReLU()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        out = {}
        for name, module in self.items():
            x = module(x)
            out[name] = x
        return out


class Detector(nn.Module):
    """Has its CNN as a part, and reads lists of images."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = AllInOrder()
        self.head = nn.Linear(5, 2)

    def forward(self, images: list[Tensor]) -> Tensor:
        y: Tensor = self.head(self.backbone(torch.stack(images))["layer2"].mean(dim=(2, 3)))
        return y
