"""The HTML page of the command `report`: networks, and what each gives on images of its data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from tailcut.data import Roots, open_dataset
from tailcut.errors import ArgumentError, DataError, DataNotFoundError, MissingExtraError
from tailcut.evaluation.generation import GENERATORS, Sampler, latent_codes
from tailcut.evaluation.samples import predict_samples
from tailcut.reports.html.output_paths import check_out
from tailcut.reports.html.page import PageReport, write_report
from tailcut.reports.html.samples import Generated, Sample, Samples, Shown
from tailcut.reports.networks import ReportedNetwork, reported_networks


def write_page(
    networks: Sequence[str],
    out: str | Path,
    *,
    data: str | None = None,
    split: str | None = None,
    num_samples: int = 12,
    roots: Roots = None,
    download: bool = False,
    command: str = "",
) -> PageReport:
    """Write one HTML page about networks, with samples of their data sets, whole or not at all.

    Args:
        networks: run folders, .tailcut files or `zoo:NAME`.
        out: the HTML file.
        data: the data set of the samples; that of each network's recipe when None.
        split: its split; the test split when None.
        num_samples: images for each network; 0 for none.
        roots: data roots to try first.
        download: fetch a data set if it lies nowhere.
        command: the command line that made the page, which is shown on it.

    Raises:
        ArgumentError: a number is out of range, `out` is a file that is read, a network is given twice, or `data` does
            not fit a network.
        DataError: a folder holds no run.
        FormatError: a file cannot be loaded.
    """
    if num_samples < 0:
        raise ArgumentError(f"num_samples must be at least 0, got {num_samples}")
    check_out(out, networks)
    found = reported_networks(networks)
    asked = _Asked(data, split, num_samples, roots, download)
    samples = {network.name: asked.samples(network) for network in found}
    return write_report(found, samples, out, command=command)


@dataclass(frozen=True)
class _Asked:
    """The samples that were asked for."""

    data: str | None
    split: str | None
    num_samples: int
    roots: Roots
    download: bool

    def samples(self, network: ReportedNetwork) -> Shown:
        """Return the network's samples on its data set or of random codes, or the reason why there are none."""
        if network.model is None:
            return network.missing["model"]
        if self.num_samples == 0:
            return "none were asked for"
        if isinstance(network.model, GENERATORS):
            sampler = Sampler(network.model)
            return Generated(sampler(latent_codes(sampler, self.num_samples, seed=0)), sampler.code_size)
        recipe = network.recipe_section("data")
        name, split = self.data or recipe.get("name"), self.split
        if name is None:
            return "its data set is unknown: name one with --data"
        if split is None and self.data is None:
            split = recipe.get("test_split")
        return self._predicted(network.model, name, split)

    def _predicted(self, model: nn.Module, name: str, split: str | None) -> Shown:
        """Return the network's predictions on this data set, or the reason why there are none."""
        try:
            dataset = open_dataset(name, split, roots=self.roots, download=self.download)
        except (DataNotFoundError, MissingExtraError) as error:
            return " ".join(f"the data set was not found: {error}".split())
        except DataError as error:
            return f"the data set is damaged: {error}"
        except ArgumentError as error:
            if self.data or self.split:  # what was asked for, not what the network's recipe says
                raise
            return str(error)
        try:
            found = [Sample(*values) for values in predict_samples(model, dataset, self.num_samples)]
        except ArgumentError as error:
            return str(error)
        except DataError as error:
            return f"the data set is damaged: {error}"
        return Samples(dataset.name, dataset.split, dataset.class_names, found)
