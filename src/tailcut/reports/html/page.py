"""Report page: one self-contained HTML file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tailcut.files import atomic_write
from tailcut.printing import Report
from tailcut.reports.html.corners import corners_section
from tailcut.reports.html.curves import curves_section
from tailcut.reports.html.elements import PageSection, element, write_page
from tailcut.reports.html.output_paths import check_out
from tailcut.reports.html.samples import Shown, samples_section
from tailcut.reports.html.sizes import sizes_section
from tailcut.reports.html.spectrum import spectrum_section
from tailcut.reports.html.speed import Speed, speed_section
from tailcut.reports.html.summary import summary_section
from tailcut.reports.networks import ReportedNetwork
from tailcut.runs import tailcut_version


@dataclass(frozen=True)
class SkippedPart(Report):
    """A network that a part of the page lacks: the title of the part, the network's name, the reason."""

    section: str
    network: str
    reason: str


@dataclass(frozen=True)
class PageReport(Report):
    """A page that was written.

    Attributes:
        out: the file.
        page_bytes: its size.
        networks: the names under which it shows them.
        speeds: the times that it shows.
        skipped: what it could not show, and why; the page says so too.
    """

    out: Path
    page_bytes: int
    networks: tuple[str, ...]
    speeds: tuple[Speed, ...]
    skipped: tuple[SkippedPart, ...]

    def __str__(self) -> str:
        """Return the file that was written, and the parts that the page lacks."""
        lines = [f"{self.out}: {', '.join(self.networks)}; {self.page_bytes:,} bytes"]
        return "\n".join([*lines, *(f"{item.section}: without {item.network}: {item.reason}" for item in self.skipped)])


def write_report(
    networks: Sequence[ReportedNetwork], samples: Mapping[str, Shown], out: str | Path, *, command: str = ""
) -> PageReport:
    """Write the page, whole or not at all.

    Args:
        networks: see `reported_networks`; not changed.
        samples: see `samples_section`.
        out: the HTML file.
        command: the command line that made it.

    Raises:
        ArgumentError: the folder of `out` does not exist, or `out` is a file of one of the networks or runs.
        MissingExtraError: matplotlib is not installed.
    """
    check_out(out, [network.source for network in networks])
    sections, speeds = _sections(networks, samples)
    title = f"Tailcut: {', '.join(network.name for network in networks)}"
    made = f"Made by Tailcut {tailcut_version()}" + (f" with: {command}" if command else "")
    content = write_page(title, [element("p", made)], sections).encode()
    with atomic_write(out) as file:
        file.write(content)
    skipped = tuple(
        SkippedPart(section.title, name, reason) for section in sections for name, reason in section.skipped.items()
    )
    return PageReport(Path(out), len(content), tuple(network.name for network in networks), tuple(speeds), skipped)


def _sections(
    networks: Sequence[ReportedNetwork], samples: Mapping[str, Shown]
) -> tuple[list[PageSection], list[Speed]]:
    # Times first: what is drawn later leaves the memory's caches full of other things.
    speed, speeds = speed_section(networks)
    sections = [
        summary_section(networks),
        curves_section(networks),
        samples_section(networks, samples),
        corners_section(networks),
        spectrum_section(networks),
        sizes_section(networks),
        speed,
    ]
    return sections, speeds
