import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from PIL import Image
from tests.small_recipe import RECIPE
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tailcut.channels import prune, score
from tailcut.errors import ArgumentError, DataError, ModelMismatchError
from tailcut.format import inspect, load, save
from tailcut.runs import Run
from tailcut.structure import class_names, create_model, set_class_names
from tailcut.tasks.pack import pack
from tailcut.tasks.prune import prune_file
from tailcut.tasks.resample import resample_file
from tailcut.training.recipe.schema import Recipe
from tailcut.training.recipe.toml_files import parse_recipe
from tailcut.training.train import train
from tailcut.weights import kept_counts, regularize, to_dense

MakeRecipe = Callable[..., Recipe]

pytestmark = pytest.mark.usefixtures("one_thread")


def trained(folder: Path, *overrides: str) -> Run:
    recipe = parse_recipe(RECIPE, source="small.toml", overrides=("training.epochs=2", *overrides))
    train(recipe, folder)
    return Run(folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of two epochs, to read only."""
    return trained(tmp_path_factory.mktemp("finished") / "run")


@pytest.mark.parametrize("overrides", [(), ("optimizer.ema_decay=0.9", "schedule={ num_kept = 400, gamma = 0.1 }")])
def test_the_checkpoint_of_a_finished_run_gives_the_run_s_file(
    overrides: tuple[str, ...], finished: Run, tmp_path: Path
) -> None:
    run = trained(tmp_path / "run", *overrides) if overrides else finished
    for source in (run.path, run.last_checkpoint):
        report = pack(source, tmp_path / "again.tailcut")
        assert (tmp_path / "again.tailcut").read_bytes() == run.model.read_bytes()
        assert report.num_kept == 1200
    pack(run.path, tmp_path / "exact.tailcut", dtype="float32")
    assert {entry.dtype for entry in inspect(tmp_path / "exact.tailcut").tensors} == {"float32"}


def with_start(text: str, section: str) -> Recipe:
    text = text.replace('name = "lenet300"\narguments = { convolutional = true }', 'name = "lenet5"')
    text = text.replace("num_kept = 4000", "").replace("num_kept = 400\n", "keep_ratio = 0.2\n")
    text = text.replace('initialization = "he"', "")
    return parse_recipe(f"{text}\n{section}", source="small.toml", overrides=("training.epochs=1",))


@pytest.fixture(scope="module", params=["truncated", "pruned"])
def trained_from_start(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run that went on from coefficients in another order, or from fewer channels."""
    folder = tmp_path_factory.mktemp("started")
    if request.param == "truncated":
        model = create_model("lenet5")
        regularize(model, keep_ratio=0.5, order_weights=[1, 1, 3, 3])
        save(model, folder / "parent.tailcut")
        section = f'[start]\nfile = "{folder}/parent.tailcut"'
    else:
        section = '[pruning]\nrates = 0.4\nmethod = "l1"'
    train(with_start(RECIPE, section), folder / "run")
    return folder / "run"


@pytest.fixture
def started_run(trained_from_start: Path, tmp_path: Path) -> Run:
    """A copy of that run, to change."""
    return Run(shutil.copytree(trained_from_start, tmp_path / "run"))


def test_a_run_that_went_on_from_another_network_is_packed_as_it_is(started_run: Run, tmp_path: Path) -> None:
    inputs = torch.rand(3, 1, 28, 28)
    for source in (started_run.path, started_run.last_checkpoint):
        pack(source, tmp_path / "again.tailcut")
        assert (tmp_path / "again.tailcut").read_bytes() == started_run.model.read_bytes()
        assert torch.equal(load(tmp_path / "again.tailcut")(inputs), load(started_run.model)(inputs))


def test_a_start_that_is_gone_or_another_is_reported(started_run: Run, tmp_path: Path) -> None:
    start = started_run.start.read_bytes()
    started_run.start.unlink()
    for source in (started_run.path, started_run.last_checkpoint):
        with pytest.raises(DataError, match=r"run/start\.tailcut, where it is not\. Put it back"):
            pack(source, tmp_path / "again.tailcut")
    started_run.start.write_bytes(start)
    slim = create_model("lenet5")
    prune(slim, torch.zeros(1, 1, 28, 28), score(slim, [], method="l1"), 0.2)
    save(slim, started_run.start)
    with pytest.raises(
        DataError, match=r"last\.pt do not fit the network of .*start\.tailcut: (size mismatch|Missing)"
    ):
        pack(started_run.last_checkpoint, tmp_path / "again.tailcut")


def test_a_run_knows_the_names_of_its_folders(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number, name in enumerate(("rose", "tulip")):
            (tmp_path / "flowers" / split / name).mkdir(parents=True)
            for index in range(8):
                pixels = np.full((28, 28), 100 * number + index, dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "flowers" / split / name / f"{index}.png")
    words = ["data.name='folder:flowers@28'", "data.test_split='val'", "data.holdout=0", "data.batch_size=4"]
    model = "model={ name = 'resnet20', arguments = { num_classes = 2 } }"
    recipe = make_recipe(*words, model, "training.epochs=1", "schedule=", "regularization=")
    train(recipe, tmp_path / "run", roots=tmp_path)
    pack(tmp_path / "run", tmp_path / "again.tailcut")
    for file in (Run(tmp_path / "run").model, tmp_path / "again.tailcut"):
        assert class_names(load(file)) == ("rose", "tulip")


def test_digits_have_no_names_but_their_numbers(finished: Run) -> None:
    assert inspect(finished.model).metadata == {}


def test_a_checkpoint_in_the_middle_is_packed_as_it_stands(finished: Run, tmp_path: Path) -> None:
    report = pack(finished.previous_checkpoint, tmp_path / "a.tailcut")
    assert report.num_kept == finished.read_metrics()[0]["num_kept"]


def test_a_run_keeps_the_levels_of_its_recipe(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "pack.levels=[0.5]")
    pack(run.path, tmp_path / "a.tailcut")
    assert inspect(tmp_path / "a.tailcut").num_levels == inspect(run.model).num_levels == 2


def test_a_training_for_bytes_is_packed_by_its_steps(tmp_path: Path) -> None:
    overrides = ("compression.target_bytes=1500", "compression.num_gradients=20", "schedule=", "pack=")
    run = trained(tmp_path / "run", *overrides)
    for checkpoint in (run.path, run.previous_checkpoint):
        report = pack(checkpoint, tmp_path / "a.tailcut")
        assert report.file_bytes <= 1500
        assert {entry.dtype for entry in inspect(tmp_path / "a.tailcut").tensors} == {"quantized"}
    assert pack(run.path, tmp_path / "b.tailcut", dtype="float32").file_bytes > 1500
    assert pack(run.path, tmp_path / "b.tailcut", other_dtype="float16").file_bytes > 1500


def test_plain_weights_need_their_model(tmp_path: Path) -> None:
    model = create_model("lenet300", bias=False)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ArgumentError, match="--model"):
        pack(tmp_path / "weights.pt", tmp_path / "a.tailcut")
    with pytest.raises(ArgumentError, match=r"do not fit model 'lenet300'.*bias"):
        pack(tmp_path / "weights.pt", tmp_path / "a.tailcut", model="lenet300")
    pack(tmp_path / "weights.pt", tmp_path / "a.tailcut", model="lenet300", arguments={"bias": False})
    inputs = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(load(tmp_path / "a.tailcut")(inputs), model(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("plain", [False, True])
def test_quantised_weights_without_their_scale_are_refused(plain: bool, tmp_path: Path) -> None:
    state = create_model("lenet300").state_dict()
    torch.save({**state, "fc1.weight": state["fc1.weight"].to(torch.int8)}, tmp_path / "a.pt")
    with pytest.raises(
        ModelMismatchError, match=r"fc1\.weight is torch\.int8 in the file, torch\.float32 in the model"
    ):
        pack(tmp_path / "a.pt", tmp_path / "a.tailcut", model="lenet300", plain=plain)
    assert not (tmp_path / "a.tailcut").exists()


@pytest.mark.parametrize("wrap", [lambda state: {"state_dict": state, "epoch": 3}, lambda state: {"model": state}])
def test_usual_wrappings_are_taken_off(wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    model = create_model("lenet300", bias=False)
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save(wrap(state), tmp_path / "weights.pt")
    report = pack(
        tmp_path / "weights.pt", tmp_path / "a.tailcut", model="lenet300", arguments={"bias": False}, num_kept=9
    )
    assert report.num_kept == 27


def test_safetensors_are_read(tmp_path: Path) -> None:
    model = create_model("lenet300", bias=False)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "weights.safetensors")
    report = pack(
        tmp_path / "weights.safetensors",
        tmp_path / "a.tailcut",
        model="lenet300",
        arguments={"bias": False},
        keep_ratio=0.01,
    )
    assert report.num_kept == 2352 + 300 + 10


def test_the_state_dict_of_a_regularised_network_is_packed_with_its_counts(tmp_path: Path) -> None:
    model = create_model("lenet300")
    regularize(model, num_kept={"fc1.weight": 50, "fc2.weight": 20})
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    pack(tmp_path / "weights.pt", tmp_path / "a.tailcut", model="lenet300")
    again = load(tmp_path / "a.tailcut")
    assert kept_counts(again) == {"fc1.weight": 50, "fc2.weight": 20}
    inputs = torch.rand(3, 1, 28, 28)
    assert torch.equal(again(inputs), model(inputs))


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3}])
def test_a_state_dict_tells_how_its_coefficients_were_made(wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    model = create_model("lenet5")
    regularize(
        model, num_kept=100, axes=(0, 1), overrides={"conv2.weight": {"axes": None, "order_weights": [1, 1, 2, 3]}}
    )
    torch.save(wrap(model.state_dict()), tmp_path / "weights.pt")
    pack(tmp_path / "weights.pt", tmp_path / "a.tailcut", model="lenet5")
    again = load(tmp_path / "a.tailcut")
    inputs = torch.rand(3, 1, 28, 28)
    assert torch.equal(again(inputs), model(inputs))
    with pytest.raises(ArgumentError, match="holds coefficients already: leave out --keep-ratio, --num-kept"):
        pack(tmp_path / "weights.pt", tmp_path / "b.tailcut", model="lenet5", keep_ratio=0.1)


def test_plain_weights_stay_plain(tmp_path: Path) -> None:
    model = create_model("lenet5", conv_relu=True)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    arguments = {"conv_relu": True}
    report = pack(tmp_path / "weights.pt", tmp_path / "a.tailcut", model="lenet5", arguments=arguments, plain=True)
    assert report.regularization is None
    again = load(tmp_path / "a.tailcut")
    assert kept_counts(again) == {}
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    prune_file(tmp_path / "a.tailcut", tmp_path / "b.tailcut", method="l1", rates=0.5, device="cpu")
    with pytest.raises(ArgumentError, match="plain weights are kept whole"):
        pack(tmp_path / "weights.pt", tmp_path / "b.tailcut", model="lenet5", plain=True, num_kept=3)


@pytest.mark.parametrize("wrap", [AveragedModel, lambda model: torch.compile(nn.DataParallel(model), backend="eager")])
def test_the_state_of_a_wrapper_tells_how_its_coefficients_were_made(
    wrap: Callable[[Any], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = create_model("lenet5")
    regularize(model, num_kept=100, axes=(0, 1))
    torch.save(wrap(model).state_dict(), tmp_path / "weights.pt")
    pack(tmp_path / "weights.pt", tmp_path / "a.tailcut", model="lenet5")
    inputs = torch.rand(3, 1, 28, 28)
    assert torch.equal(load(tmp_path / "a.tailcut")(inputs), model(inputs))
    assert "does not say" not in caplog.text


@pytest.mark.parametrize("kind", ["safetensors", "plain dict", "half told"])
def test_coefficients_of_unknown_axes_are_warned_of(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = create_model("lenet5")
    regularize(model, num_kept={"conv1.weight": 100, "conv2.weight": 100})
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pt")
    state = model.state_dict()
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    elif kind == "plain dict":
        torch.save(dict(state), path)
    else:
        del state._metadata["conv2.parametrizations.weight"]  # type: ignore[attr-defined]
        torch.save(state, path)
    pack(path, tmp_path / "a.tailcut", model="lenet5")
    inputs = torch.rand(3, 1, 28, 28)
    assert torch.equal(load(tmp_path / "a.tailcut")(inputs), model(inputs))
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    names = "conv2.weight" if kind == "half told" else "conv1.weight and 1 more"
    assert record.getMessage().startswith(
        f"{path} does not say which axes and order its coefficients belong to ({names}): all axes and order weights of "
        "1 are assumed"
    )


def test_plain_weights_and_told_coefficients_are_packed_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = create_model("lenet5")
    safetensors.torch.save_file(model.state_dict(), tmp_path / "plain.safetensors")
    pack(tmp_path / "plain.safetensors", tmp_path / "a.tailcut", model="lenet5", num_kept=50)
    regularize(model, num_kept=50, order_weights=[1, 1, 3, 3])
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    pack(tmp_path / "weights.pt", tmp_path / "a.tailcut", model="lenet5")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_whole_pickled_module_is_reported(tmp_path: Path) -> None:
    torch.save(create_model("lenet300"), tmp_path / "module.pt")
    with pytest.raises(DataError, match=r"cannot read .*module\.pt: .*save model\.state_dict\(\) instead") as caught:
        pack(tmp_path / "module.pt", tmp_path / "a.tailcut", model="lenet300")
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("strange", [5, {"": 5}, {3: {}}, {"fc1.parametrizations.weight": {"tailcut": 5}}])
def test_strange_metadata_are_no_reason_to_fail_unnamed(strange: Any, tmp_path: Path) -> None:
    model = create_model("lenet300")
    regularize(model, num_kept=50)
    state = model.state_dict()
    state._metadata = strange  # type: ignore[attr-defined]
    torch.save(state, tmp_path / "weights.pt")
    with contextlib.suppress(ArgumentError):
        pack(tmp_path / "weights.pt", tmp_path / "a.tailcut", model="lenet300")
    if isinstance(strange, int):
        assert kept_counts(load(tmp_path / "a.tailcut"))["fc1.weight"] == 50


def test_a_vector_that_is_none_is_reported(tmp_path: Path) -> None:
    model = create_model("lenet300")
    regularize(model, num_kept=50)
    state = {**model.state_dict(), "fc1.parametrizations.weight.original": torch.tensor(1.0)}
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(ArgumentError, match=r"do not fit model 'lenet300'.*fc1.*has shape \(\) in the file"):
        pack(tmp_path / "weights.pt", tmp_path / "a.tailcut", model="lenet300")


@pytest.mark.parametrize(("name", "content"), [("a.pt", b"nonsense"), ("a.safetensors", b"nonsense"), ("a.pt", b"")])
def test_damaged_files_are_reported(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"cannot read .*{name}"):
        pack(tmp_path / name, tmp_path / "a.tailcut", model="lenet300")


def test_other_contents_are_reported(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(DataError, match="holds no tensors by name"):
        pack(tmp_path / "list.pt", tmp_path / "a.tailcut", model="lenet300")
    with pytest.raises(DataError, match="no run folder"):
        pack(tmp_path, tmp_path / "a.tailcut")
    train(make_recipe("training.epochs=1"), tmp_path / "run")
    with pytest.raises(ArgumentError, match="leave out --model"):
        pack(tmp_path / "run", tmp_path / "a.tailcut", model="lenet300")


def test_a_size_alone_rounds_the_numbers(tmp_path: Path) -> None:
    report = pack("zoo:lenet5-776", tmp_path / "a.tailcut", max_bytes=900)
    assert report.file_bytes <= 900
    assert inspect(tmp_path / "a.tailcut").tensors[0].dtype == "quantized"


def test_numbers_that_are_rounded_a_second_time_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, again = tmp_path / "first.tailcut", tmp_path / "again.tailcut"
    pack("zoo:lenet5-776", first, step=0.01)
    asked: list[dict[str, Any]] = [{"dtype": "float32"}, {"step": 0.01}, {"max_bytes": 900}]
    for settings in asked:
        pack(first, again, **settings)
    assert caplog.text == ""
    pack(first, again)
    assert "first.tailcut holds quantised numbers, which were rounded a second time" in caplog.text
    assert again.stat().st_size < first.stat().st_size
    pack(first, again, dtype="float32")
    kept, wanted = (to_dense(load(file)).state_dict() for file in (again, first))
    assert all(torch.equal(kept[name], wanted[name]) for name in wanted)


def test_plain_numbers_that_are_quantised_stay_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, again = tmp_path / "first.tailcut", tmp_path / "again.tailcut"
    save(to_dense(load("zoo:lenet5-776")), first, step=0.01)
    assert not inspect(first).tensors
    pack(first, again)
    assert "first.tailcut holds quantised numbers, which were rounded a second time" in caplog.text
    assert again.stat().st_size < 1.1 * first.stat().st_size


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_exact_numbers_beside_quantised_ones_stay_exact(kind: str, tmp_path: Path) -> None:
    first, again = tmp_path / "first.tailcut", tmp_path / "again.tailcut"
    model = create_model("lenet5")
    regularize(model, num_kept=60)
    save(model, first, step=0.01, other_dtype=kind)
    pack(first, again)
    assert {entry.dtype for entry in inspect(again).other_tensors} == {kind}
    kept, wanted = (load(file).state_dict() for file in (again, first))
    assert all(torch.equal(kept[name], wanted[name]) for name in wanted if name.endswith("bias"))


def test_what_plain_weights_lose_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained = to_dense(load("zoo:lenet300-ref"))
    arguments: dict[str, Any] = {}
    torch.save(trained.state_dict(), tmp_path / "a.pt")
    report = pack(tmp_path / "a.pt", tmp_path / "a.tailcut", model="lenet300", arguments=arguments, keep_ratio=0.3)
    cut = report.regularization
    assert cut is not None
    assert cut.energy_lost_of_trained is not None
    assert cut.energy_lost_of_trained > 0.05
    assert "energy lost" in str(report)
    assert f"{100 * (cut.energy_lost or 0):.1f} %" in str(report)
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "tailcut evaluate FILE" in message
    assert "TailTruncation" not in message
    whole = pack(tmp_path / "a.pt", tmp_path / "b.tailcut", model="lenet300", arguments=arguments)
    assert "energy lost" not in str(whole)
    assert len(caplog.records) == 1


def test_fresh_weights_are_cut_without_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(create_model("lenet5").state_dict(), tmp_path / "a.pt")
    report = pack(tmp_path / "a.pt", tmp_path / "a.tailcut", model="lenet5", keep_ratio=0.3)
    assert report.regularization is not None
    assert "in all" in str(report)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_what_is_written_of_a_file_has_its_metadata(tmp_path: Path) -> None:
    network = create_model("resnet18", width=8, num_classes=10)
    regularize(network, num_kept=9)
    set_class_names(network, [str(number) for number in range(10)])
    source = tmp_path / "a.tailcut"
    save(network, source, metadata={"by": "me", "license": "MIT"})
    expected = inspect(source).metadata
    assert set(expected) == {"by", "license", "class_names"}
    pack(source, tmp_path / "packed.tailcut", dtype="float16")
    resample_file(source, tmp_path / "wider.tailcut", {"width": 12})
    save(create_model("resnet20"), tmp_path / "dense.tailcut", metadata=expected)
    prune_file(tmp_path / "dense.tailcut", tmp_path / "pruned.tailcut", method="l1", rates=0.5)
    for name in ("packed", "wider", "pruned"):
        assert inspect(tmp_path / f"{name}.tailcut").metadata == expected, name


def test_a_checkpoint_by_its_bare_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(with_start(RECIPE, '[pruning]\nrates = 0.4\nmethod = "l1"'), tmp_path / "run")
    run = Run(tmp_path / "run")
    monkeypatch.chdir(run.checkpoints)
    pack(run.last_checkpoint.name, tmp_path / "again.tailcut")
    assert (tmp_path / "again.tailcut").read_bytes() == run.model.read_bytes()


def test_levels_that_nobody_trained_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pack("zoo:lenet5-776", tmp_path / "a.tailcut", levels=(0.25,))
    assert "nothing says that the smaller networks of the file were trained" in caplog.text
    assert inspect(tmp_path / "a.tailcut").num_levels == 2
