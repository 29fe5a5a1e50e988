import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tailcut.errors import ArgumentError
from tailcut.structure import Base, base_of, create_model, family, model_names, register_model
from tailcut.structure import registry as registry_module


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "_families", dict(registry_module._families))


class Net(nn.Module):
    def __init__(
        self,
        *,
        width: int = 4,
        bias: bool = True,
        slope: float = 0.5,
        kind: str = "relu",
        widths: tuple[int, ...] = (2, 3),
        blocks: tuple[tuple[int, ...], ...] = ((1,), (2, 3)),
        either: int | str = 1,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2, bias=bias)


@pytest.fixture
def net() -> type[Net]:
    return register_model("net", example_shape=(1, 4))(Net)


def function_with(hint: Any, default: Any) -> Callable[..., nn.Module]:
    def build(*, value: Any = default) -> nn.Module:
        return nn.Identity()

    build.__annotations__["value"] = hint
    return build


def test_registering_returns_the_class(net: type[Net]) -> None:
    assert net is Net
    assert "net" in model_names()
    assert model_names() == sorted(model_names())
    assert family("net").build is Net


def test_defaults_keep_the_order_of_the_signature(net: type[Net]) -> None:
    assert list(family("net").defaults.items()) == [
        ("width", 4),
        ("bias", True),
        ("slope", 0.5),
        ("kind", "relu"),
        ("widths", (2, 3)),
        ("blocks", ((1,), (2, 3))),
        ("either", 1),
    ]


def test_only_arguments_that_differ_are_recorded(net: type[Net]) -> None:
    assert base_of(create_model("net")) == Base("net", {})
    assert base_of(create_model("net", width=4, bias=True)) == Base("net", {})
    model = create_model("net", either="b", widths=(7,), width=9)
    assert base_of(model) == Base("net", {"width": 9, "widths": (7,), "either": "b"})
    assert list(base_of(model).arguments) == ["width", "widths", "either"]  # type: ignore[union-attr]
    assert isinstance(model, Net)
    assert model.linear.in_features == 9


def test_rebuilding_from_the_record(net: type[Net]) -> None:
    base = base_of(copy.deepcopy(create_model("net", width=9, bias=False)))
    assert base is not None
    again = create_model(base.name, **base.arguments)
    assert {name: value.shape for name, value in again.state_dict().items()} == {"linear.weight": torch.Size((2, 9))}


def test_lists_become_tuples(net: type[Net]) -> None:
    arguments: Any = {"widths": [5, 6]}
    assert base_of(create_model("net", **arguments)) == Base("net", {"widths": (5, 6)})


def test_an_integer_will_do_for_a_float(net: type[Net]) -> None:
    assert base_of(create_model("net", slope=2)) == Base("net", {"slope": 2})


WRONG: list[tuple[str, Any]] = [
    ("width", True),
    ("width", 1.0),
    ("width", "1"),
    ("width", None),
    ("width", torch.tensor(1)),
    ("width", (1 << 24) + 1),
    ("width", -(1 << 24) - 1),
    ("bias", 1),
    ("bias", "True"),
    ("slope", True),
    ("slope", float("nan")),
    ("slope", float("inf")),
    ("slope", "1"),
    ("kind", b"relu"),
    ("kind", 3),
    ("widths", 3),
    ("widths", "23"),
    ("widths", (1, True)),
    ("widths", (1.0,)),
    ("widths", ((1,),)),
    ("widths", (1,) * 257),
    ("blocks", (1,)),
    ("blocks", ([1],)),
    ("blocks", ((True,),)),
    ("either", 1.5),
    ("either", None),
    ("either", True),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_values_of_the_wrong_type_are_refused(net: type[Net], key: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=f"model 'net': argument '{key}' must be .*, got "):
        create_model("net", **{key: value})


def test_unknown_arguments_are_refused(net: type[Net]) -> None:
    with pytest.raises(ArgumentError, match="model 'net' has no argument 'depth'; its arguments: width, bias, slope"):
        create_model("net", depth=3)


def test_an_argument_may_be_called_name() -> None:
    @register_model("named", example_shape=(1,))
    class Named(nn.Module):
        def __init__(self, *, name: str = "a") -> None:
            super().__init__()

    assert base_of(create_model("named", name="b")) == Base("named", {"name": "b"})


def test_unknown_models_are_refused(net: type[Net]) -> None:
    with pytest.raises(ArgumentError, match=r"unknown model 'nett'; did you mean 'net'\? registered: .*net"):
        create_model("nett")
    with pytest.raises(ArgumentError, match="unknown model 'nett'"):
        family("nett")


def test_names_are_unique(net: type[Net]) -> None:
    with pytest.raises(ArgumentError, match="a model named 'net' is registered already; choose another name"):
        register_model("net", example_shape=(1,))(Net)


@pytest.mark.parametrize("name", ["", "Net", "a b", "ü", "a/b", "zoo:a", ".a", "-a", "x" * 65, "a\n", 3, None])
def test_names_are_lower_case_words(name: Any) -> None:
    with pytest.raises(ArgumentError, match=r"expected a model name of lower-case letters, digits and \._-"):
        register_model(name, example_shape=(1,))(Net)


@pytest.mark.parametrize("shape", [(), 28, None, (1, 0, 28), (1, -3), (1, 2.5), ("a", 1), (True, 3)])
def test_example_shapes_are_sizes(shape: Any) -> None:
    with pytest.raises(ArgumentError, match="model 'net': example_shape must be the sizes of an input, batch first"):
        register_model("net", example_shape=shape)(Net)


@pytest.mark.parametrize("name", ["a", "9", "lenet-300.v2_b", "x" * 64])
def test_good_names(name: str) -> None:
    register_model(name, example_shape=(1,))(Net)
    assert name in model_names()


SIGNATURES: list[Callable[..., Any]] = [
    lambda width=3: None,
    lambda *, width=3: None,
    lambda *widths: None,
    lambda **widths: None,
]


@pytest.mark.parametrize("build", SIGNATURES, ids=["positional", "no annotation", "args", "kwargs"])
def test_signatures_that_do_not_fit_are_refused(build: Callable[..., Any]) -> None:
    with pytest.raises(ArgumentError, match=r"argument 'widths?' must be keyword-only, annotated, with a default"):
        register_model("unfit", example_shape=(1,))(build)
    assert "unfit" not in model_names()


def test_arguments_without_a_default_are_refused() -> None:
    def build(*, width: int) -> nn.Module:
        return nn.Linear(width, 1)

    with pytest.raises(ArgumentError, match="argument 'width' must be keyword-only, annotated, with a default"):
        register_model("unfit", example_shape=(1,))(build)


UNSUPPORTED: list[Any] = [
    None,
    list[int],
    dict[str, int],
    bytes,
    object,
    Any,
    nn.Module,
    int | None,
    tuple,
    tuple[int, str],
    tuple[int],
    tuple[bytes, ...],
    tuple[tuple[tuple[int, ...], ...], ...],
]


@pytest.mark.parametrize("hint", UNSUPPORTED, ids=str)
def test_types_that_no_file_can_hold_are_refused(hint: Any) -> None:
    with pytest.raises(ArgumentError, match="argument 'value' must be a bool, int, float, str or tuple"):
        register_model("unfit", example_shape=(1,))(function_with(hint, ()))


DEFAULTS: list[tuple[Any, Any]] = [
    (int, None),
    (int, True),
    (int, 1.5),
    (int, 1 << 25),
    (float, "a"),
    (float, float("nan")),
    (bool, 0),
    (str, 3),
    (tuple[int, ...], [1]),
    (tuple[int, ...], 1),
]


@pytest.mark.parametrize(("hint", "default"), DEFAULTS)
def test_defaults_of_another_type_are_refused(hint: Any, default: Any) -> None:
    with pytest.raises(ArgumentError, match=r"the default of 'value' must be .*, it is"):
        register_model("unfit", example_shape=(1,))(function_with(hint, default))


def test_annotations_may_be_texts() -> None:
    register_model("textual", example_shape=(1,))(function_with("tuple[int, ...]", (1,)))
    with pytest.raises(ArgumentError, match="model 'unfit': an annotation cannot be read: name 'Nowhere'"):
        register_model("unfit", example_shape=(1,))(function_with("Nowhere", 1))


def test_an_inherited_signature_counts() -> None:
    @register_model("child", example_shape=(1,))
    class Child(Net):
        pass

    assert isinstance(create_model("child", width=3), Child)


def test_a_function_may_be_registered() -> None:
    @register_model("made", example_shape=(1, 3))
    def made(*, width: int = 3) -> nn.Module:
        return nn.Linear(width, 1)

    assert base_of(create_model("made", width=5)) == Base("made", {"width": 5})


def test_what_is_no_module_is_refused() -> None:
    def build(*, width: int = 3) -> nn.Module:
        return None  # type: ignore[return-value]

    register_model("nothing", example_shape=(1,))(build)
    with pytest.raises(ArgumentError, match="what is registered returned NoneType, not a module"):
        create_model("nothing")


def test_example_shape_may_depend_on_the_arguments(net: type[Net]) -> None:
    def shape(*, width: int, **_: object) -> tuple[int, ...]:
        return (1, width)

    register_model("shaped", example_shape=shape)(Net)
    assert family("shaped").example_shape() == (1, 4)
    assert family("shaped").example_shape(width=7) == (1, 7)
    assert family("net").example_shape(width=7) == (1, 4)


def test_models_can_be_built_on_the_meta_device(net: type[Net]) -> None:
    with torch.device("meta"):
        model = create_model("net", width=1 << 24)
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("build", [functools.partial(nn.Linear, 3), nn.ReLU()])
def test_what_is_no_class_and_no_function_is_refused_in_our_words(build: Any) -> None:
    with pytest.raises(ArgumentError, match="register a class or a function"):
        register_model("partial", example_shape=(1, 3))(build)


@pytest.mark.parametrize("name", [5, ["a"], None])
def test_a_name_is_a_text(name: Any) -> None:
    with pytest.raises(ArgumentError, match="the name of a model must be a text"):
        create_model(name)
