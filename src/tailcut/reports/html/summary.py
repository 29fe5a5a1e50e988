"""Summary table of a report: each network's metrics beside the paper's, and its cost."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tailcut.errors import ArgumentError
from tailcut.printing import difference_text, figure_text
from tailcut.reports.dense_sizes import FLOAT32_BYTES, SECONDS_PER_HOUR, dense_parameters
from tailcut.reports.html.elements import PageSection, element, table
from tailcut.reports.networks import ReportedNetwork

HEADER = (
    "network", "recipe", "data", "figure", "here", "paper", "difference", "coefficients", "paper's", "parameters",
    "file, bytes", "smaller by", "epochs", "seed", "device", "hours",
)  # fmt: skip


def summary_section(networks: Sequence[ReportedNetwork]) -> PageSection:
    """Return a table with one row per network and metric, with footnotes."""
    section = PageSection(
        "Results",
        "results",
        "Figures are those of the packed file on the whole test split. 'Smaller by' is the size of the dense network "
        "in float32 over that of the file; of a pruned one, the size of its parent.",
    )
    rows = [row for network in networks for row in _rows(network)]
    align = "<<<<" + ">" * (len(HEADER) - 4)
    used = [place for place in range(len(HEADER)) if any(row[place] for row in rows)]
    shown = [[row[place] for place in used] for row in rows]
    header = [HEADER[place] for place in used]
    section.body.append(table("results", header, shown, align="".join(align[place] for place in used)))
    notes = [note for network in networks for note in _notes(network)]
    if notes:
        section.body.append(element("ul", *(element("li", note) for note in notes)))
    for network in networks:
        if network.stored is None:
            section.skipped[network.name] = network.missing["stored"]
        elif network.result is None:
            untold = "the file alone does not say how it was trained and what it reached"
            section.skipped[network.name] = network.missing.get("result", untold)
    return section


def _rows(network: ReportedNetwork) -> Iterator[list[str]]:
    paper = paper_of(network)
    reached = {} if network.result is None else network.result.metrics
    printed: Mapping[str, float] = paper.get("metrics", {})
    for metric in [*reached, *(name for name in printed if name not in reached)] or [""]:
        ours, theirs = reached.get(metric), printed.get(metric)
        comparable = ours is not None and theirs is not None and not paper.get("why_not")
        yield [
            network.name,
            str(network.recipe.get("name", "")),
            str(network.recipe_section("data").get("name", "")),
            metric,
            "" if ours is None else figure_text(metric, ours),
            "" if theirs is None else figure_text(metric, theirs),
            difference_text(metric, ours, theirs) if comparable else "",
            *_sizes(network, paper),
            *_training(network),
        ]


def paper_of(network: ReportedNetwork) -> Mapping[str, Any]:
    """Return the paper's figures for the row of the network's recipe; empty if there are none."""
    return network.recipe_section("paper") if network.result is None else network.result.paper


def _sizes(network: ReportedNetwork, paper: Mapping[str, Any]) -> list[str]:
    in_paper = paper.get("num_kept")
    theirs = "" if in_paper is None else f"{in_paper:,}"
    sizes = network.stored or network.result  # both have these, in the same words
    if sizes is None:
        return ["", theirs, "", "", ""]
    # A result counts only the coefficients that were drawn for training; the file holds the zeros between them too.
    num_kept = sizes.num_kept if network.result is None else network.result.num_kept
    return [
        f"{num_kept:,}" if num_kept else "none",
        theirs,
        f"{sizes.num_parameters:,}",
        f"{sizes.file_bytes:,}",
        _ratio(network, sizes.num_parameters, sizes.file_bytes),
    ]


def _ratio(network: ReportedNetwork, num_parameters: int, file_bytes: int) -> str:
    """Return how much smaller the file is than the dense network; empty if the parent of a pruned one is not known."""
    try:
        num_dense = num_parameters if network.result is None else dense_parameters(network.result)
    except ArgumentError:
        return ""
    return f"{FLOAT32_BYTES * num_dense / file_bytes:,.1f} x"


def _training(network: ReportedNetwork) -> list[str]:
    result = network.result
    if result is None:
        epochs = network.recipe_section("training").get("epochs")
        return ["" if epochs is None else f"{len(network.lines)} of {epochs}", "", "", ""]
    device = result.device if result.num_devices == 1 else f"{result.num_devices} x {result.device}"
    return [str(result.epochs), str(result.seed), device, f"{result.seconds / SECONDS_PER_HOUR:.2f}"]


def _notes(network: ReportedNetwork) -> Iterator[str]:
    description, paper = network.recipe.get("description"), paper_of(network)
    if description:
        yield f"{network.name}: {description}."
    if paper.get("source"):
        yield f"{network.name}: the paper's figures are from {paper['source']}."
    if paper.get("why_not"):
        yield f"{network.name}: not to be compared with the paper: {paper['why_not']}."
