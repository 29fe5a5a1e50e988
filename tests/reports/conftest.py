"""A tiny finished run, and networks of a report."""

from pathlib import Path

import pytest
import torch

from tailcut.reports.networks import ReportedNetwork, reported_networks
from tailcut.training.recipe.toml_files import parse_recipe
from tailcut.training.train import train

RECIPE = """
name = "tiny <b>run</b> & more"
description = "for tests: <script>alert(1)</script>"
[model]
name = "lenet300"
arguments = { bias = false }
[data]
name = "digits"
batch_size = 256
[regularization]
num_kept = 400
[schedule]
num_kept = 200
fraction = 0.5
[optimizer]
name = "adam"
lr = 0.01
[training]
epochs = 3
[pack]
dtype = "float16"
[paper]
source = "a paper, <i>Table 9</i>"
metrics = { accuracy = 0.5 }
num_kept = 123
"""


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeNet-300-100 trained for three epochs on scikit-learn's digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "tiny <u>run"
    train(parse_recipe(RECIPE, source="test"), folder)
    torch.set_num_threads(before)
    return folder


@pytest.fixture(scope="session")
def networks(run_folder: Path) -> list[ReportedNetwork]:
    """The tiny run, and a truncated and a plain network of the zoo."""
    return reported_networks([run_folder, "zoo:lenet5-776", "zoo:lenet300-ref"])
