"""The `.tailcut` file: a network as data, a few kilobytes, safe to load. SPEC.md describes every byte."""

from tailcut.format.inspect import InspectReport as InspectReport
from tailcut.format.inspect import inspect as inspect
from tailcut.format.load import load as load
from tailcut.format.network.tensors import fingerprint as fingerprint
from tailcut.format.save import WriteSettings as WriteSettings
from tailcut.format.save import encode_network as encode_network
from tailcut.format.save import save as save
from tailcut.format.save import write_network as write_network
from tailcut.format.save_report import SaveReport as SaveReport
from tailcut.format.zoo import resolve as resolve
from tailcut.format.zoo import zoo_folder as zoo_folder
from tailcut.format.zoo import zoo_names as zoo_names
