import shutil
from pathlib import Path

import pytest

from tailcut.errors import ArgumentError
from tailcut.format import load, resolve
from tailcut.reports.html.output_paths import check_no_file_of_a_run, check_out
from tailcut.runs import Run

RUN_FILES = [
    "recipe.toml", "start.tailcut", "metrics.jsonl", "checkpoints/last.pt", "checkpoints/damaged.pt",
    "checkpoints/other.html", "model.tailcut", "discriminator.tailcut", "result.json", "curves.png", "log.txt",
]  # fmt: skip


def test_every_file_that_a_run_knows_is_among_those_tested() -> None:
    run = Run(Path("run"))
    known = [getattr(run, name) for name, value in vars(Run).items() if isinstance(value, property)]
    assert {path.name for path in known} - {"checkpoints", "stages", "previous.pt"} <= {
        Path(name).name for name in RUN_FILES
    }


@pytest.mark.parametrize("name", RUN_FILES)
@pytest.mark.parametrize("is_there", [False, True])
def test_no_file_of_a_run_is_replaced(name: str, is_there: bool, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    run.recipe.write_text("")
    file = run.path / name
    if is_there:
        file.write_text("mine")
    (tmp_path / "link").symlink_to(run.path)
    for source in (run.path, tmp_path / "link"):
        for out in (file, tmp_path / "link" / name):
            with pytest.raises(ArgumentError, match=r"the network itself|a file of the run"):
                check_out(out, [str(source)])
    check_out(run.path / "report.html", [str(run.path)])


@pytest.mark.parametrize("name", RUN_FILES)
def test_no_other_command_replaces_it_either(name: str, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    check_no_file_of_a_run(run.path / name)  # a folder that holds no run yet
    run.recipe.write_text("")
    (tmp_path / "link").symlink_to(run.path)
    for out in (run.path / name, tmp_path / "link" / name):
        with pytest.raises(ArgumentError, match=r"cannot write .*: it is a file of the run .*run; choose another file"):
            check_no_file_of_a_run(out)
    for out in (run.path / "report.html", tmp_path / Path(name).name, Path(Path(name).name)):
        check_no_file_of_a_run(out)


def test_no_network_and_no_record_is_replaced(tmp_path: Path) -> None:
    copied = tmp_path / "a.tailcut"
    shutil.copyfile(resolve("zoo:lenet5-776"), copied)
    with pytest.raises(ArgumentError, match="the network itself"):
        check_out(copied, [str(copied)])
    with pytest.raises(ArgumentError, match="the record of"):
        check_out(tmp_path / "a.json", [str(copied)])
    for name in ("lenet5-776.tailcut", "lenet5-776.json"):
        with pytest.raises(ArgumentError, match=r"the network itself|the record of zoo:lenet5-776"):
            check_out(resolve("zoo:lenet5-776").parent / name, ["zoo:lenet5-776"])
    (tmp_path / "recipe.toml").write_text("")  # now the file is one of a run
    with pytest.raises(ArgumentError, match="a file of the run"):
        check_out(tmp_path / "metrics.jsonl", [str(copied)])
    check_out(tmp_path / "b.html", [str(copied)])
    load(copied)
