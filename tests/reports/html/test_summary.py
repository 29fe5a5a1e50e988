import dataclasses
from xml.etree.ElementTree import Element

import pytest

from tailcut.reports.html.summary import summary_section
from tailcut.reports.networks import ReportedNetwork


def rows(networks: list[ReportedNetwork]) -> list[dict[str, str]]:
    """The table by the titles of its columns."""
    section = summary_section(networks)
    header, *body = [["".join(cell.itertext()) for cell in row] for row in section.body[0].iter("tr")]
    return [dict(zip(header, row, strict=True)) for row in body]


def notes(networks: list[ReportedNetwork]) -> str:
    lists: list[Element] = [part for part in summary_section(networks).body if part.tag == "ul"]
    return "\n".join("".join(part.itertext()) for part in lists)


def test_figures_stand_beside_the_papers(networks: list[ReportedNetwork]) -> None:
    (row,) = rows(networks[1:2])
    result, stored = networks[1].result, networks[1].stored
    assert result is not None
    assert stored is not None
    accuracy = result.metrics["accuracy"]
    assert row == {
        "network": "zoo:lenet5-776",
        "recipe": "lenet5-776",
        "data": "mnist",
        "figure": "accuracy",
        "here": f"{100 * accuracy:.2f} %",
        "paper": "97.52 %",
        "difference": f"{100 * (accuracy - 0.9752):+.2f}",
        "coefficients": "776",
        "paper's": "776",
        "parameters": "430,500",
        "file, bytes": f"{stored.file_bytes:,}",
        "smaller by": f"{4 * 430_500 / stored.file_bytes:,.1f} x",
        "epochs": str(result.epochs),
        "seed": "0",
        "device": "cpu",
        "hours": f"{result.seconds / 3600:.2f}",
    }


def test_a_run_has_its_own_figures_and_notes(networks: list[ReportedNetwork]) -> None:
    (row,) = rows(networks[:1])
    assert (row["recipe"], row["epochs"], row["coefficients"], row["paper's"]) == (
        "tiny <b>run</b> & more",
        "3",
        "600",
        "123",
    )
    assert (row["figure"], row["paper"]) == ("accuracy", "50.00 %")
    assert "from a paper, <i>Table 9</i>." in notes(networks[:1])
    assert "for tests: <script>alert(1)</script>." in notes(networks[:1])


def test_what_cannot_be_compared_has_no_difference(networks: list[ReportedNetwork]) -> None:
    result = networks[1].result
    assert result is not None
    changed = dataclasses.replace(result, paper={**result.paper, "why_not": "other images"})
    network = dataclasses.replace(networks[1], result=changed)
    (row,) = rows([network])
    assert "difference" not in row
    assert row["paper"] == "97.52 %"
    assert "not to be compared with the paper: other images." in notes([network])


def test_distances_are_no_percentages(networks: list[ReportedNetwork]) -> None:
    result = networks[1].result
    assert result is not None
    changed = dataclasses.replace(result, metrics={"fid": 93.5}, paper={"source": "", "metrics": {"fid": 94.0}})
    (row,) = rows([dataclasses.replace(networks[1], result=changed)])
    assert (row["here"], row["paper"], row["difference"]) == ("93.50", "94.00", "-0.50")


def test_figures_that_only_the_paper_has_are_shown(networks: list[ReportedNetwork]) -> None:
    result = networks[1].result
    assert result is not None
    changed = dataclasses.replace(result, paper={"metrics": {"accuracy": 0.9752, "dice": 0.5}})
    both = rows([dataclasses.replace(networks[1], result=changed)])
    assert [(row["figure"], row["here"]) for row in both] == [
        ("accuracy", f"{100 * result.metrics['accuracy']:.2f} %"),
        ("dice", ""),
    ]


def test_an_unfinished_run_tells_how_far_it_is(networks: list[ReportedNetwork]) -> None:
    network = dataclasses.replace(networks[0], result=None, stored=None, missing={"stored": "not finished"})
    (row,) = rows([network])
    assert (row["epochs"], row["paper"]) == ("3 of 3", "50.00 %")
    assert "here" not in row
    assert summary_section([network]).skipped == {network.name: "not finished"}


def test_columns_without_content_are_left_out(networks: list[ReportedNetwork]) -> None:
    network = dataclasses.replace(networks[1], result=None, recipe={})
    (row,) = rows([network])
    assert list(row) == ["network", "coefficients", "parameters", "file, bytes", "smaller by"]
    assert set(summary_section([network]).skipped) == {network.name}


def test_several_devices_are_counted(networks: list[ReportedNetwork]) -> None:
    result = networks[1].result
    assert result is not None
    changed = dataclasses.replace(result, num_devices=4)
    assert rows([dataclasses.replace(networks[1], result=changed)])[0]["device"] == "4 x cpu"


def test_coefficients_and_sizes_are_those_of_the_result(networks: list[ReportedNetwork]) -> None:
    """Of coefficients that were drawn for training the file holds more: zeros lie between them."""
    result, stored = networks[1].result, networks[1].stored
    assert result is not None
    assert stored is not None
    drawn = dataclasses.replace(networks[1], result=dataclasses.replace(result, num_kept=60))
    assert rows([drawn])[0]["coefficients"] == "60"
    gone = dataclasses.replace(networks[1], stored=None, missing={"stored": "it is gone"})
    (row,) = rows([gone])
    assert (row["coefficients"], row["parameters"], row["file, bytes"]) == ("776", "430,500", f"{result.file_bytes:,}")
    assert summary_section([gone]).skipped == {gone.name: "it is gone"}


@pytest.mark.parametrize("number", [0, 1, 2])
def test_each_network_has_a_row(number: int, networks: list[ReportedNetwork]) -> None:
    assert rows(networks)[number]["network"] == networks[number].name


def test_a_pruned_network_is_compared_with_its_parent(networks: list[ReportedNetwork]) -> None:
    result = networks[1].result
    assert result is not None
    pruned = {"model": {"name": "resnet20"}, "pruning": {"rates": 0.5}}
    for model, ratio in (("resnet20", f"{4 * 269_722 / 400_000:,.1f} x"), ("unknown-here", "")):
        recipe = {**pruned, "model": {"name": model}}
        slim = dataclasses.replace(result, recipe=recipe, num_parameters=100_000, file_bytes=400_000)
        stored = dataclasses.replace(networks[1].stored, num_parameters=100_000, file_bytes=400_000)  # type: ignore[type-var]
        (row,) = rows([dataclasses.replace(networks[1], result=slim, recipe=recipe, stored=stored)])
        assert row.get("smaller by", "") == ratio
