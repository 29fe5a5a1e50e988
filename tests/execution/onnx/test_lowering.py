from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tailcut.errors import StructureError
from tailcut.execution.onnx import lowering
from tailcut.execution.onnx.lowering import lower_locally

pytestmark = pytest.mark.filterwarnings("ignore")
IMAGES = torch.linspace(-4, 4, 2 * 3 * 8 * 8).view(2, 3, 8, 8)


class Body(nn.Module):
    def __init__(self, body: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def chained(x: Tensor) -> Tensor:
    y = x * 2
    z = y.add_(x).relu_()
    return y + z  # both names of the one tensor


def seen_through_a_view(x: Tensor) -> Tensor:
    y = x * 2
    row = y[:, 0]
    y.relu_()
    return row + y[:, 1]  # the row was changed too


def seen_through_a_reshape(x: Tensor) -> Tensor:
    y = x * 2
    flat = y.reshape(2, -1)
    y.relu_()
    return flat


def written_into_a_view(x: Tensor) -> Tensor:
    y = x * 2
    y[:, 0].relu_()
    return y


def written_into_an_item(x: Tensor) -> Tensor:
    y = x * 2
    first, second = y.chunk(2, dim=2)
    first.mul_(3)
    return y + second.repeat(1, 1, 2, 1)


def assigned(x: Tensor) -> Tensor:
    y = x * 2
    y[:, :, 2:4] = 5
    return y


def promoted(x: Tensor) -> Tensor:
    y = (x * 2).to(torch.float16)
    y.add_(x)
    return y.float()


def before_and_after(x: Tensor) -> Tensor:
    y = x * 2
    z = y + 1
    nn.functional.hardtanh_(y, -1, 1)
    return y + z


def detached(x: Tensor) -> Tensor:
    y = x * 2
    z = y.detach()
    y.relu_()
    return z


def enlarged(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=1.5, mode="bilinear")


def enlarged_rows(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x.flatten(1, 2), scale_factor=1.5, mode="linear")


NETWORKS: dict[str, tuple[nn.Module, bool]] = {
    "chained": (Body(chained), True),
    "view": (Body(seen_through_a_view), False),
    "reshape": (Body(seen_through_a_reshape), False),
    "into a view": (Body(written_into_a_view), False),
    "into an item": (Body(written_into_an_item), False),
    "assigned": (Body(assigned), False),
    "promoted": (Body(promoted), False),
    "before and after": (Body(before_and_after), True),
    "detached": (Body(detached), False),
    "enlarged": (Body(enlarged), True),
    "enlarged rows": (Body(enlarged_rows), True),
    "means of windows": (nn.AdaptiveAvgPool2d((5, 4)), True),
    "means of windows of one axis": (nn.AdaptiveAvgPool2d((None, 4)), True),
    "means of windows of rows": (Body(lambda x: nn.functional.adaptive_avg_pool1d(x.flatten(1, 2), 4)), True),
    "maxima of windows": (nn.AdaptiveMaxPool2d((5, 4)), True),
    "maxima of windows of one axis": (nn.AdaptiveMaxPool2d((None, 4)), True),
    "maxima of windows of rows": (Body(lambda x: nn.functional.adaptive_max_pool1d(x.flatten(1, 2), 4)), True),
    "windows where the whole program is traced": (
        nn.Sequential(Body(written_into_a_view), nn.AdaptiveAvgPool2d((5, 4)), nn.AdaptiveMaxPool2d((3, 2))),
        False,
    ),
    "parts of an open size": (Body(lambda x: torch.cat([part * 2 for part in x.chunk(2, 3)][::-1], 1)), True),
    "parts of a size": (Body(lambda x: x.split(5, -1)[0] * x.split(5, 3)[1].sum(3, True)), True),
    "parts of nearly equal size": (Body(lambda x: torch.cat([x.sum(3, True) for x in x.tensor_split(3, 3)], 3)), True),
    "output padding of the stride and more": (
        nn.Sequential(
            nn.ConvTranspose2d(3, 4, 3, (1, 2), padding=(1, 0), output_padding=1, dilation=2),
            nn.ConvTranspose2d(4, 4, 3, 1, padding=0, output_padding=(2, 0), dilation=3, groups=2, bias=False),
        ),
        True,
    ),
    "output padding of one axis for all": (
        Body(lambda x: nn.functional.conv_transpose2d(x, x.new_ones(3, 2, 3, 3), output_padding=1, dilation=2)),
        True,
    ),
    "attention of three axes": (
        Body(lambda x: nn.functional.scaled_dot_product_attention(x[:, 0], x[:, 1], x[:, 2], scale=0.2)),
        True,
    ),
    "attention of three axes to earlier ones": (
        Body(lambda x: nn.functional.scaled_dot_product_attention(x[:, 0], x[:, 1], x[:, 2], is_causal=True)),
        True,
    ),
    "attention of three axes with a mask": (
        Body(lambda x: nn.functional.scaled_dot_product_attention(x[:, 0], x[:, 1], x[:, 2], x[:, 0] @ x[:, 0].mT)),
        True,
    ),
    "attention of five axes with a mask": (
        Body(
            lambda x: nn.functional.scaled_dot_product_attention(
                x[:, None], x[:, None], x[:, None], x[0, 0] @ x[0, 1].T > 0
            )
        ),
        True,
    ),
    "layers": (
        nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.Hardswish(inplace=True),
            nn.Dropout(0.5, inplace=True),
            nn.ConvTranspose2d(4, 4, 2, 2),
            nn.SiLU(inplace=True),
            nn.BatchNorm2d(4, track_running_stats=False),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 2),
        ),
        True,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_numbers_are_those_of_pytorch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, is_local = NETWORKS[name]
    told = []
    real = lowering._Lowering.run

    def run(self: lowering._Lowering) -> torch.fx.Graph:
        told.append(False)
        graph = real(self)
        told[-1] = True
        return graph

    monkeypatch.setattr(lowering._Lowering, "run", run)
    network.eval()
    dynamic = ({0: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},)
    traced = torch.export.export(network, (IMAGES,), dynamic_shapes=dynamic, strict=False)
    lower_locally(traced)
    program = torch.onnx.export(traced, (), dynamo=True, verbose=False)
    assert program is not None
    assert told == [is_local]
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for images in (IMAGES, IMAGES[:1, :, :, 1:7].contiguous()):
        with torch.no_grad():
            expected = network(images.clone())
        (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4 if name != "promoted" else 1e-2)


def test_indices_of_open_windows_are_refused() -> None:
    network = Body(lambda x: torch.stack(nn.functional.adaptive_max_pool2d(x, 2, return_indices=True)))
    dynamic = ({3: torch.export.Dim.AUTO},)
    traced = torch.export.export(network.eval(), (IMAGES,), dynamic_shapes=dynamic, strict=False)
    with pytest.raises(StructureError, match=r"adaptive max pooling to \(2, 2\) gives indices"):
        lower_locally(traced)


def test_no_operation_in_place_and_no_unused_one_is_left() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Dropout2d()).eval()
    traced = torch.export.export(network, (IMAGES,), strict=False)
    lower_locally(traced)
    program = torch.onnx.export(traced, (), dynamo=True, verbose=False, optimize=False)
    assert program is not None
    assert [node.op_type for node in program.model_proto.graph.node] == ["Conv", "Relu"]
    onnx.checker.check_model(program.model_proto)
