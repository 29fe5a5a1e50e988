"""What Tailcut notes on a network beside its tensors; every copy of the network has it too."""

from typing import Any

from torch import nn
from torch.fx import GraphModule

# Where a GraphModule's `meta` names attributes for its copies: they are built anew, without any others.
_KEPT_BY_COPIES = "_user_preserved_attributes"


def set_attribute(model: nn.Module, name: str, value: Any) -> None:
    """Write an attribute that deepcopies of `model` keep; None removes it. Changes the module's `__dict__` only.

    Of a `torch.fx.GraphModule` (a traced network, such as torchvision's feature extractors) it changes `meta` too.
    """
    places = [model.__dict__]
    if isinstance(model, GraphModule):
        model.meta = getattr(model, "meta", {})  # torchvision's feature extractors are made without
        places.append(model.meta.setdefault(_KEPT_BY_COPIES, {}))
    for place in places:
        if value is None:
            place.pop(name, None)
        else:
            place[name] = value
