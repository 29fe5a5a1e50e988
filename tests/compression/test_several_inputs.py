"""Networks of several inputs, by place and by name, and with several outputs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tests.torchvision_operators  # noqa: F401
import torch
from torch import Tensor, nn

import tailcut
from tailcut.channels import score
from tailcut.errors import ArgumentError

NUM = 48


class Depth(nn.Module):
    """Photo and depth map, each with a convolution of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.photo, self.depth = nn.Conv2d(3, 8, 3), nn.Conv2d(1, 8, 3)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, image: Tensor, depth: Tensor) -> Any:
        maps = torch.relu(self.norm(self.photo(image) + self.depth(depth)))
        return self.head(maps.mean((2, 3)))


class Stacked(nn.Module):
    """The same with one input, of four channels."""

    def __init__(self, network: Depth) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Any:
        return self.network(x[:, :3], x[:, 3:])


def inputs() -> Tensor:
    return torch.rand(NUM, 4, 12, 12, generator=torch.Generator().manual_seed(0))


def network() -> Depth:
    torch.manual_seed(0)
    return Depth().eval()


def as_pairs(x: Tensor) -> Any:
    return [((part[:, :3], part[:, 3:]), torch.zeros(len(part))) for part in x.split(16)]


def as_dicts(x: Tensor) -> Any:
    return [{"depth": part[:, 3:], "image": part[:, :3]} for part in x.split(16)]


def as_one_dict(x: Tensor) -> Any:
    return {"image": x[:, :3], "depth": x[:, 3:]}


@pytest.mark.parametrize("given", [as_pairs, as_dicts, as_one_dict])
def test_the_file_is_that_of_the_network_with_one_input(given: Callable[[Tensor], Any], tmp_path: Path) -> None:
    x = inputs()
    tailcut.compress(Stacked(network()), tmp_path / "one.tailcut", x.split(16), step=0.1, num_gradients=20)
    tailcut.compress(network(), tmp_path / "two.tailcut", given(x), step=0.1, num_gradients=20)
    one, two = Stacked(Depth()), Depth()
    tailcut.load(tmp_path / "one.tailcut", into=one)
    tailcut.load(tmp_path / "two.tailcut", into=two)
    for (name, mine), theirs in zip(two.state_dict().items(), one.network.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6, msg=name)
    assert not torch.equal(two.photo.weight, network().photo.weight)  # it is rounded


@pytest.mark.parametrize("given", [as_pairs, as_dicts, as_one_dict])
def test_levels_are_calibrated_on_them(
    given: Callable[[Tensor], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = network()
    tailcut.regularize(model, keep_ratio=0.5)
    tailcut.compress(model, tmp_path / "two.tailcut", given(inputs()), max_bytes=800, num_gradients=20, levels=[0.5])
    assert "loader=" not in caplog.text  # compress has no such argument
    small = Depth()
    tailcut.load(tmp_path / "two.tailcut", into=small, level=1)
    whole = Depth()
    tailcut.load(tmp_path / "two.tailcut", into=whole)
    assert not torch.equal(small.norm.get_buffer("running_mean"), whole.norm.get_buffer("running_mean"))


@pytest.mark.parametrize("given", [as_pairs, as_dicts])
def test_channels_are_scored_and_pruned_alike(given: Callable[[Tensor], Any]) -> None:
    x = inputs()
    expected = score(network(), as_pairs(x), inputs=lambda batch: batch[0])
    model = network()
    found = score(model, given(x))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    report = tailcut.prune(model, as_one_dict(x[:1]), found, 0.5)
    other = network()
    tailcut.prune(other, (x[:1, :3], x[:1, 3:]), expected, 0.5)
    assert report.macs_after < report.macs_before
    assert torch.equal(model(**as_one_dict(x)), other(x[:, :3], x[:, 3:]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([as_pairs(inputs())[0][0]], "tensors of|missing 1 required positional argument: 'depth'.*a dict, whose"),
        ([{"image": inputs()[:, :3]}], r"of shape image \(8, 3, 12, 12\) and type float32: .*argument: 'depth'"),
        ([{"image": inputs()[:, :3], "deep": inputs()[:, 3:]}], "unexpected keyword argument 'deep'"),
        ([{"image": inputs()[:, :3], "depth": torch.full((NUM, 1, 12, 12), torch.nan)}], "numbers that are not finite"),
    ],
)
def test_what_does_not_fit_is_one_error(given: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=message):
        tailcut.compress(network(), tmp_path / "two.tailcut", given, step=0.1, num_gradients=20)
    assert not list(tmp_path.iterdir())


class Graph(nn.Module):
    """Classes of the nodes of a graph, from theirs and their neighbours' numbers, times a factor."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.head = nn.Linear(5, 16), nn.Linear(16, 3)

    def forward(self, nodes: Tensor, edges: Tensor, factor: Tensor) -> Any:
        around = torch.zeros_like(nodes).index_add(0, edges[1], nodes[edges[0]])
        return factor * self.head(torch.relu(self.wide(nodes + around)))


def test_a_graph_is_not_taken_apart(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [30, 2000, 20]
    graphs: Any = [
        {
            "nodes": torch.randn(size, 5, generator=generator),
            "edges": torch.randint(size, (2, 3 * size), generator=generator),
            "factor": torch.tensor(2.0),
        }
        for size in sizes
    ]
    torch.manual_seed(0)
    model = Graph().eval()
    tailcut.compress(model, tmp_path / "a.tailcut", graphs, max_bytes=400, num_gradients=60)
    again = Graph()
    tailcut.load(tmp_path / "a.tailcut", into=again)
    with torch.no_grad():
        expected, found = model(**graphs[0]), again(**graphs[0])
    assert (found - expected).std() / expected.std() < 0.1
    names = ["wide", "head"]
    scores = score(model, graphs, method="l1", layers=names)
    report = tailcut.prune(model, graphs[0], scores, 0.5)
    assert report.num_parameters_after < report.num_parameters_before
    assert model(**graphs[1]).shape == (2000, 3)


def test_a_graph_that_looks_like_a_batch_is_told_what_to_do(tmp_path: Path) -> None:
    class Dense(Graph):
        def forward(self, nodes: Tensor, weights: Tensor) -> Any:  # type: ignore[override]
            return self.head(torch.relu(weights @ self.wide(nodes)))

    nodes, weights = torch.randn(30, 5), torch.rand(30, 30)
    with pytest.raises(ArgumentError, match="taken apart along axis 0, 8 inputs at a time: give a batch axis"):
        tailcut.compress(Dense(), tmp_path / "a.tailcut", [((nodes, weights),)], max_bytes=400, num_gradients=20)
    tailcut.compress(
        Dense(), tmp_path / "a.tailcut", [((nodes[None], weights[None]),)], max_bytes=400, num_gradients=20
    )


def test_texts_of_other_lengths_in_each_batch(tmp_path: Path) -> None:
    """Networks are compared on the length that most have; an empty batch is passed over."""

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

        def forward(self, words: Tensor) -> Any:
            return self.head(self.table(words).mean(1))

    torch.manual_seed(0)
    batches = [torch.randint(20, (size, length)) for size, length in ((0, 4), (2, 4), (16, 9), (16, 6), (16, 9))]
    model = Words()
    report = tailcut.compress(model, tmp_path / "a.tailcut", batches, max_bytes=300, num_gradients=20)
    assert report.file_bytes <= 300
    loaded = tailcut.load(tmp_path / "a.tailcut", into=Words())
    for batch in batches[1:]:
        with torch.no_grad():
            expected, found = model(batch), loaded(batch)
        assert float((found - expected).abs().mean()) < 0.2 * float(expected.abs().mean())


class Named(nn.Module):
    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.line, self.form = nn.Linear(4, 3), form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.line(x))


@pytest.mark.parametrize(
    "form",
    [
        lambda y: {"loss": y.sum(), "logits": y, "hidden": y * 2},
        lambda y: (y,),
        lambda y: {"out": y},
    ],
)
def test_logits_of_several_outputs_count(form: Callable[[Tensor], Any]) -> None:
    torch.manual_seed(0)
    model = Named(form)
    x = torch.rand(16, 4)
    found = tailcut.measure_sensitivity(model, [x], num_gradients=20)
    model.form = lambda y: y
    assert found.curvature == tailcut.measure_sensitivity(model, [x], num_gradients=20).curvature


class Tasks(nn.Module):
    """Two tasks: a class, and an age."""

    def __init__(self) -> None:
        super().__init__()
        self.maps, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.kind, self.age = nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.norm(self.maps(x))).mean((2, 3))
        return {"kind": self.kind(x), "age": self.age(x)}


def tasks_loss(outputs: Any, generator: torch.Generator) -> Tensor:
    drawn = torch.multinomial(outputs["kind"].detach().softmax(1), 1, generator=generator)[:, 0]
    noise = torch.randn(outputs["age"].shape, generator=generator)
    ages: Tensor = (outputs["age"] * noise).sum()
    return nn.functional.cross_entropy(outputs["kind"], drawn, reduction="sum") + ages


def test_a_loss_of_several_outputs_is_given(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x, path = Tasks().eval(), inputs()[:, :3], tmp_path / "tasks.tailcut"
    with pytest.raises(
        ArgumentError, match=r"kind \(8, 3\), age \(8, 1\)\. Give loss=, a function of .*, or \"squared_error\""
    ):
        tailcut.compress(model, path, x, max_bytes=600, num_gradients=20)
    found = tailcut.measure_sensitivity(model, x, num_gradients=20, loss=tasks_loss)
    assert found.curvature["kind.bias"] > 0 < found.curvature["age.bias"]
    assert tailcut.compress(model, path, x, max_bytes=600, sensitivity=found).file_bytes <= 600
    rate_loss = tailcut.RateLoss(model, target_bytes=600, num_steps=4)
    with pytest.raises(ArgumentError, match="Give loss="):
        rate_loss.remeasure(x, num_gradients=20)
    rate_loss.remeasure(x, num_gradients=20, loss=tasks_loss)
    assert rate_loss.save(path, x, num_gradients=20, loss=tasks_loss).file_bytes <= 600


@pytest.mark.parametrize("name", ["questions", "sounds"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_networks_of_transformers_without_logits_or_words(name: str, tmp_path: Path) -> None:
    """Answers lie between two logits of each word; classes of a sound's frames lie along the last axis."""
    transformers = pytest.importorskip("transformers", reason="needs the extra transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    maps = {"conv_dim": (8,), "conv_kernel": (8,), "conv_stride": (4,), "num_feat_extract_layers": 1}
    position = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}

    def make() -> nn.Module:
        torch.manual_seed(0)
        if name == "questions":
            config = transformers.BertConfig(vocab_size=90, **sizes)
            return transformers.BertForQuestionAnswering(config).eval()  # type: ignore[no-any-return]
        config = transformers.Wav2Vec2Config(vocab_size=12, **sizes, **maps, **position)
        return transformers.Wav2Vec2ForCTC(config).eval()  # type: ignore[no-any-return]

    generator = torch.Generator().manual_seed(0)
    given = {"input_ids": torch.randint(3, 90, (NUM, 9), generator=generator)}
    if name == "sounds":
        given = {"input_values": torch.randn(NUM, 120, generator=generator)}
    network = make()
    for parameter in network.parameters():  # as trained ones: biases too are no zeros
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    size = 4 * sum(parameter.numel() for parameter in network.parameters()) // 6
    tailcut.compress(network, tmp_path / "a.tailcut", given, max_bytes=size, num_gradients=30)
    again = make()
    tailcut.load(tmp_path / "a.tailcut", into=again)
    with torch.no_grad():
        expected, found = network(**given), again.eval()(**given)
    names = ("start_logits", "end_logits") if name == "questions" else ("logits",)
    for part in names:
        error = (found[part] - expected[part]).std() / expected[part].std()
        assert error < 0.1, (part, error)


@pytest.mark.parametrize("name", ["bert", "t5"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_networks_of_transformers_take_the_batches_of_their_loader(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra transformers")

    def make() -> nn.Module:
        torch.manual_seed(0)
        if name == "bert":
            sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
            config = transformers.BertConfig(vocab_size=90, num_labels=3, **sizes)
            return transformers.BertForSequenceClassification(config).eval()  # type: ignore[no-any-return]
        sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}
        return transformers.T5ForConditionalGeneration(  # type: ignore[no-any-return]
            transformers.T5Config(vocab_size=90, **sizes)
        ).eval()

    words = torch.randint(3, 90, (NUM, 9), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(9) < 6 + torch.arange(NUM)[:, None] % 4).long()
    text: dict[str, Tensor] = {"input_ids": words, "attention_mask": mask}
    text["labels" if name == "bert" else "decoder_input_ids"] = words[:, 0] % 3 if name == "bert" else words[:, :5]
    batches = [{key: value[i : i + 16] for key, value in text.items()} for i in range(0, NUM, 16)]
    network = make()
    size = 4 * sum(parameter.numel() for parameter in network.parameters()) // 6
    report = tailcut.compress(network, tmp_path / "text.tailcut", batches, max_bytes=size, num_gradients=30)
    again = make()
    for parameter in again.parameters():
        nn.init.zeros_(parameter)
    tailcut.load(tmp_path / "text.tailcut", into=again)
    with torch.no_grad():
        expected, found = make()(**text).logits, again.eval()(**text).logits
    error = (found - expected).std() / expected.std()
    assert error < 0.2, error
    assert report.file_bytes <= size
