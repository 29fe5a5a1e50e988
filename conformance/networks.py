"""The networks of the corpus, as `networks.json` gives them and as the reference reader builds them."""

import json
from pathlib import Path
from typing import Any

from conformance.reference.decoder import Registered
from conformance.reference.networks import Module, build, chain

FOLDER = Path(__file__).parent
CHAIN_DEFAULTS: dict[str, Any] = {"widths": [3, 2], "bias": True, "scale": 1.0, "label": "a"}


def _conv(inner: int, outer: int, groups: int = 1, kind: str = "Conv2d", bias: bool = False) -> dict[str, Any]:
    axes = int(kind[-2])
    sizes = {"in_channels": inner, "out_channels": outer, "kernel_size": [3] * axes, "stride": [1] * axes}
    return {"type": kind, "sizes": {**sizes, "groups": groups, "bias": bias}}


def _layer(kind: str, **sizes: Any) -> dict[str, Any]:
    return {"type": kind, "sizes": sizes}


def _image() -> dict[str, Any]:
    """Layers of every kind that an edit knows. Nobody runs it: what counts are its modules and tensors."""
    block = {
        "type": "Block",
        "sizes": {"use_res_connect": True, "downsample": None},
        "children": {"conv": _conv(4, 4), "norm": _layer("BatchNorm2d", num_features=4)},
    }
    other = {"type": "Block", "sizes": {"has_shortcut": False}, "children": {"shortcut": _layer("Identity")}}
    return {
        "type": "Image",
        "sizes": {"image_size": 16, "patch_size": 4, "img_size": [16, 16], "num_channels": 3},
        "parameters": {"scale": [[4, 1], "float32"]},
        "buffers": {"steps": [[3], "int64"]},
        "children": {
            "conv1": _conv(3, 4),
            "norm1": _layer("BatchNorm2d", num_features=4),
            "act": _layer("ReLU"),
            "slope": _layer("PReLU", num_parameters=4),
            "one_slope": _layer("PReLU", num_parameters=1),
            "block": block,
            "other": other,
            "pad": _layer("PadShortcut", pad_before=1, pad_after=1),
            "depthwise": _conv(4, 4, groups=4),
            "grouped": _conv(4, 6, groups=2),
            "up": _conv(6, 4, kind="ConvTranspose2d", bias=True),
            "group_norm": _layer("GroupNorm", num_groups=2, num_channels=4),
            "layer_norm": _layer("LayerNorm", normalized_shape=[4]),
            "two_axes": _layer("LayerNorm", normalized_shape=[2, 2]),
            "rms_norm": _layer("RMSNorm", normalized_shape=[4]),
            "table": _layer("Embedding", num_embeddings=5, embedding_dim=4),
            "head": _layer("Linear", in_features=4, out_features=5, bias=True),
        },
        "tied": {"head.weight": "table.weight"},
        "shared": {"block.act": "act"},
    }


def _own() -> dict[str, Any]:
    """Tensors of every number type and shape, and weights of one to five axes."""
    buffers = {
        "bits": [[2, 3], "bool"],
        "bytes": [[5], "uint8"],
        "table": [[8], "int16"],
        "small": [[3], "int8"],
        "middle": [[2], "int32"],
        "steps": [[], "int64"],
        "nothing": [[0, 4], "float32"],
        "limits": [[6], "float64"],
        "halves": [[3], "float16"],
        "brains": [[3], "bfloat16"],
    }
    return {
        "type": "Own",
        "parameters": {"gain": [[], "float32"]},
        "children": {
            "line": _conv(2, 3, kind="Conv1d"),
            "plane": _conv(2, 3, bias=True),
            "space": _conv(1, 2, kind="Conv3d"),
            "linear": _layer("Linear", in_features=6, out_features=5, bias=True),
            "table": _layer("Embedding", num_embeddings=7, embedding_dim=4),
            "head": _layer("Linear", in_features=4, out_features=7, bias=False),
            "kept": {"type": "Constants", "buffers": buffers},
        },
        "tied": {"head.weight": "table.weight"},
    }


def _words() -> dict[str, Any]:
    """Linear layers whose weight is (in, out), as GPT-2 has them."""
    children = {
        "table": _layer("Embedding", num_embeddings=5, embedding_dim=4),
        "c_fc": _layer("Conv1D", nx=4, nf=6),
        "c_proj": _layer("Conv1D", nx=6, nf=4),
    }
    return {"type": "Words", "children": children}


DESCRIPTIONS: dict[str, dict[str, Any]] = {
    "linear": _layer("Linear", in_features=3, out_features=2, bias=True),
    "row": _layer("Linear", in_features=1, out_features=1, bias=False),
    "wide": _layer("Linear", in_features=64, out_features=3, bias=False),
    "nothing": _layer("ReLU"),
    "half": {"type": "Half", "parameters": {"weight": [[2, 2], "float16"], "bias": [[2], "float16"]}},
    "empty": {"type": "Empty", "parameters": {"weight": [[3, 0], "float32"], "bias": [[2], "float32"]}},
    "sequence": {"type": "Sequential", "children": {"0": _conv(3, 2), "1": _layer("ReLU"), "2": _conv(2, 2)}},
    "own": _own(),
    "image": _image(),
    "words": _words(),
    "counters": {"type": "Constants", "buffers": {"many": [[65_537], "int64"]}},
    "line": {"type": "Line", "parameters": {"weight": [[1_048_577], "float32"]}},
    "taken": {"type": "Taken", "sizes": {"input_transform": None}, "children": {"conv": _conv(3, 2)}},
}


def own_class(name: str) -> Module:
    """Return the network of an own class, fresh."""
    return build(json.loads(json.dumps(DESCRIPTIONS[name])))


def registered() -> dict[str, Registered]:
    """Return the registered networks: a chain by a formula, and one without arguments."""
    return {
        "conformance-chain": Registered(CHAIN_DEFAULTS, chain),
        "conformance-image": Registered({}, lambda arguments: own_class("image")),
    }


def written() -> str:
    """`networks.json`."""
    found = {
        "registered": {
            "conformance-chain": {"arguments": CHAIN_DEFAULTS, "description": None},
            "conformance-image": {"arguments": {}, "description": "image"},
        },
        "descriptions": DESCRIPTIONS,
    }
    return json.dumps(found, indent=1) + "\n"
