"""Tailcut: neural networks in the frequency domain."""

from tailcut import channels as channels
from tailcut import data as data
from tailcut import inputs as inputs
from tailcut import models as models
from tailcut import weights as weights
from tailcut.channels.pruning.prune import prune as prune
from tailcut.compression import RateLoss as RateLoss
from tailcut.compression import compress as compress
from tailcut.compression import measure_sensitivity as measure_sensitivity
from tailcut.errors import TailcutError as TailcutError
from tailcut.execution import fuse as fuse
from tailcut.execution.onnx.export import export_onnx as export_onnx
from tailcut.format import inspect as inspect
from tailcut.format import load as load
from tailcut.format import save as save
from tailcut.structure import class_names as class_names
from tailcut.structure import create_model as create_model
from tailcut.structure import model_names as model_names
from tailcut.structure import register_model as register_model
from tailcut.structure import set_class_names as set_class_names
from tailcut.weights import NestedLevels as NestedLevels
from tailcut.weights import TailTruncation as TailTruncation
from tailcut.weights import regularize as regularize
from tailcut.weights import to_dense as to_dense

__version__ = "0.1.0"
__all__ = [
    "NestedLevels",
    "RateLoss",
    "TailTruncation",
    "TailcutError",
    "channels",
    "class_names",
    "compress",
    "create_model",
    "data",
    "export_onnx",
    "fuse",
    "inputs",
    "inspect",
    "load",
    "measure_sensitivity",
    "model_names",
    "models",
    "prune",
    "register_model",
    "regularize",
    "save",
    "set_class_names",
    "to_dense",
    "weights",
]
