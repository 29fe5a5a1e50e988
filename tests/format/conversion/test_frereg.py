import io
import lzma
import os
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
from PIL import Image
from tests.format.networks import BARE_UNET, vectors
from torch import nn

import tailcut
from tailcut.errors import ArgumentError, CorruptFileError, LimitError, ModelMismatchError
from tailcut.format.conversion import frereg
from tailcut.weights import kept_counts

SMALL: dict[str, Any] = {"widths": (2, 4), **BARE_UNET}


def corner(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """A tensor of coefficients: the first few of the corner."""
    coefficients = torch.zeros(shape)
    generator = torch.Generator().manual_seed(seed)
    for index in sorted(np.ndindex(*shape), key=lambda index: (sum(index), index))[: 5 + seed]:
        coefficients[index] = torch.randn((), generator=generator)
    return coefficients


def small_tensors(layout: str = "sparse") -> dict[str, torch.Tensor]:
    model = tailcut.create_model("unet", **SMALL)
    dense = {name: corner(tuple(p.shape), place) for place, (name, p) in enumerate(model.named_parameters())}
    return dense if layout == "dense" else {name: tensor.to_sparse() for name, tensor in dense.items()}


def torch_file(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def archive(path: Path, *members: tuple[str, bytes], mode: str = "w:xz") -> Path:
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return path


def converted(path: Path, **arguments: Any) -> nn.Module:
    return frereg.convert(path, model="unet", arguments={**SMALL, **arguments})


@pytest.mark.parametrize("layout", ["sparse", "dense"])
@pytest.mark.parametrize("collect", [dict, lambda tensors: list(tensors.values())], ids=["dict", "list"])
def test_a_bare_torch_file(layout: str, collect: Callable[[Any], Any], tmp_path: Path) -> None:
    tensors = small_tensors(layout)
    (tmp_path / "a.pt").write_bytes(torch_file(collect(tensors)))
    model = converted(tmp_path / "a.pt")
    assert not model.training
    state = tailcut.to_dense(model).state_dict()
    for name, tensor in small_tensors("dense").items():
        expected = scipy.fft.idctn(tensor.double().numpy(), norm="ortho")
        np.testing.assert_allclose(state[name].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["w:xz", "w:gz", "w"])
def test_an_archive_of_any_compression(mode: str, tmp_path: Path) -> None:
    content = torch_file(small_tensors())
    path = archive(tmp_path / "a.tar.xz", ("README", b"text"), ("folder/unet.pt", content), mode=mode)
    assert list(kept_counts(converted(path)).values()) == [
        min(5 + n, p.numel()) for n, p in enumerate(small_tensors("dense").values())
    ]


def test_coefficients_behind_the_last_one_are_dropped_and_gaps_kept(tmp_path: Path) -> None:
    tensors = small_tensors("dense")
    first = next(iter(tensors))
    tensors[first] = torch.zeros_like(tensors[first])
    tensors[first].reshape(-1)[[0, 2]] = torch.tensor([1.0, 3.0])
    second = list(tensors)[1]
    tensors[second] = torch.zeros_like(tensors[second])
    (tmp_path / "a.pt").write_bytes(torch_file(tensors))
    found = vectors(converted(tmp_path / "a.pt"))
    assert found[first].count_nonzero() == 2
    assert found[first][-1] != 0
    assert found[second].tolist() == [0.0]


def test_a_converted_network_is_registered(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(torch_file(small_tensors()))
    tailcut.save(converted(tmp_path / "a.pt"), tmp_path / "a.tailcut")
    assert tailcut.inspect(tmp_path / "a.tailcut").arguments == SMALL
    assert next(iter(vectors(tailcut.load(tmp_path / "a.tailcut")).values())).count_nonzero() == 5


def test_another_network(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(torch_file(small_tensors()))
    with pytest.raises(ArgumentError, match="unknown model 'resnet'; did you mean 'resnet56'\\? registered: alexnet, "):
        frereg.convert(path, model="resnet")
    with pytest.raises(ModelMismatchError, match=r"a\.pt holds 8 tensors, 'unet' has 23 weights"):
        frereg.convert(path, model="unet")
    with pytest.raises(ModelMismatchError, match=r"has shape \(2, 3, 3, 3\), inc\..*\.weight of 'unet' \(3, 3, 3, 3\)"):
        converted(path, widths=(3, 4))


def test_coefficients_outside_a_corner(tmp_path: Path) -> None:
    tensors = small_tensors("dense")
    first = next(iter(tensors))
    tensors[first][...] = 0
    tensors[first][-1, -1, -1, -1] = 1
    tensors = {**tensors, first: tensors[first].to_sparse()}
    path = tmp_path / "a.pt"
    path.write_bytes(torch_file(tensors))
    assert converted(path)  # 54 numbers: too few to tell
    large = torch.zeros(4, 4, 3, 3)
    large[-1, -1, -1, -1] = 1
    name = next(name for name, tensor in tensors.items() if tuple(tensor.shape) == (4, 4, 3, 3))
    path.write_bytes(torch_file({**tensors, name: large}))
    with pytest.raises(ModelMismatchError, match="its 1 coefficients are no low-frequency corner"):
        converted(path)


class Bomb:
    """What a pickle may do when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("archived", [False, True])
def test_a_pickle_is_never_executed(archived: bool, tmp_path: Path) -> None:
    content, path = torch_file({"a": torch.ones(2), "b": Bomb(tmp_path / "exploded")}), tmp_path / "a.pt"
    path.write_bytes(content)
    if archived:
        archive(path, ("unet.pt", content))
    with pytest.raises(CorruptFileError, match="other things than tensors") as caught:
        converted(path)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "content", [{}, [], 3, "text", {"a": 1}, {"a": torch.ones(2), "b": None}, {"a": torch.ones(2, dtype=torch.int64)}]
)
def test_other_contents(content: object, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(torch_file(content))
    with pytest.raises(CorruptFileError, match="does not hold a dict or list of floating-point tensors"):
        converted(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "content", [b"", b"text", b"PK\x03\x04" + bytes(100), bytes(100), lzma.compress(b"text" * 300)]
)
def test_other_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"a\.pt"):
        converted(tmp_path / "a.pt")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        converted(tmp_path / "missing.pt")


def test_archives_of_no_or_two_torch_files(tmp_path: Path) -> None:
    content = torch_file(small_tensors())
    for members in ([("a.txt", b"x")], [("a.pt", content), ("b.pth", content)]):
        path = archive(tmp_path / "a.tar.xz", *members)
        number = len(members) if members[0][0] != "a.txt" else 0
        with pytest.raises(ArgumentError, match=f"holds {number} torch files"):
            converted(path)


def test_damaged_archives(tmp_path: Path) -> None:
    """Cut short or changed: an error of ours, or (behind the end of the torch file) no harm."""
    content = archive(tmp_path / "a.tar.xz", ("a.pt", torch_file(small_tensors()))).read_bytes()
    expected = vectors(converted(tmp_path / "a.tar.xz"))
    path, refused = tmp_path / "b.tar.xz", 0
    for place in range(0, len(content), len(content) // 40):
        flipped = bytearray(content)
        flipped[place] ^= 0x55
        for damaged in (content[:place], bytes(flipped)):
            path.write_bytes(damaged)
            try:
                found = vectors(converted(path))
            except (CorruptFileError, ArgumentError, LimitError, ModelMismatchError):
                refused += 1
            else:
                assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert refused > 60


def test_archives_that_expand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frereg, "MAX_ARCHIVE_BYTES", 100_000)
    path = archive(tmp_path / "a.tar.xz", ("zeros", bytes(60_000)), ("more", bytes(60_000)), ("a.pt", b""))
    with pytest.raises(LimitError, match="expands to more than 100000 bytes"):
        converted(path)


def test_indices_outside_the_tensor(tmp_path: Path) -> None:
    tensors = small_tensors()
    first = next(iter(tensors))
    with torch.sparse.check_sparse_tensor_invariants(False):
        outside = torch.sparse_coo_tensor(
            torch.tensor([[7], [0], [0], [0]]), torch.ones(1), tensors[first].shape, check_invariants=False
        )
        (tmp_path / "a.pt").write_bytes(torch_file({**tensors, first: outside}))
    with pytest.raises(CorruptFileError):
        converted(tmp_path / "a.pt")


@pytest.fixture(scope="module")
def published(carvana_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The published network, packed with each number type."""
    folder = tmp_path_factory.mktemp("published")
    model = frereg.convert(carvana_root / "carvana" / "published" / "unet_fr.tar.xz", model="unet")
    files = {dtype: folder / f"{dtype}.tailcut" for dtype in ("float32", "float16")}
    for dtype, path in files.items():
        tailcut.save(model, path, dtype=dtype)
    return files


def test_the_published_network_has_33_coefficients_in_each_of_23_layers(published: dict[str, Path]) -> None:
    report = tailcut.inspect(published["float16"])
    assert [entry.num_kept for entry in report.tensors] == [33] * 23
    assert report.other_tensors == ()
    assert report.num_parameters == 31_024_960
    assert report.arguments == BARE_UNET


def test_the_published_network_takes_1600_bytes(published: dict[str, Path], carvana_root: Path) -> None:
    assert published["float16"].stat().st_size <= 1600
    assert (carvana_root / "carvana" / "published" / "unet_fr.tar.xz").stat().st_size == 4524


def test_the_bare_torch_file_gives_the_same(published: dict[str, Path], carvana_root: Path, tmp_path: Path) -> None:
    with tarfile.open(carvana_root / "carvana" / "published" / "unet_fr.tar.xz") as file:
        member = file.extractfile("unet_fr.pt")
        assert member is not None
        (tmp_path / "unet_fr.pt").write_bytes(member.read())
    tailcut.save(frereg.convert(tmp_path / "unet_fr.pt", model="unet"), tmp_path / "a.tailcut", dtype="float32")
    assert (tmp_path / "a.tailcut").read_bytes() == published["float32"].read_bytes()


def mean_dice(path: Path, folder: Path) -> float:
    """Over the published images, straight from the files. tests/models/test_unet.py does so with dense weights."""
    network = tailcut.fuse(tailcut.load(path))
    figures = []
    for image in sorted((folder / "images").glob("*.png")):
        mask = np.asarray(Image.open(folder / "masks" / image.name.replace("in", "gt", 1)).convert("L")) > 0
        pixels = np.asarray(Image.open(image).convert("RGB"), dtype=np.float32) / 255
        with torch.inference_mode():
            outputs = network(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None])[0]
        found = (outputs[1] > outputs[0]).numpy()
        figures.append(2 * (found & mask).sum() / (found.sum() + mask.sum()))
    assert len(figures) == 8
    return float(np.mean(figures))


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "expected", "tolerance"), [("float32", 0.975010, 1e-5), ("float16", 0.9750, 2e-4)])
def test_the_published_network_finds_its_masks(
    dtype: str, expected: float, tolerance: float, published: dict[str, Path], carvana_root: Path
) -> None:
    assert mean_dice(published[dtype], carvana_root / "carvana" / "published") == pytest.approx(expected, abs=tolerance)


def tar_header(kind: bytes, size: int, name: bytes = b"x") -> bytes:
    """One block of a tar archive, by the layout of POSIX ustar."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:107], block[108:115], block[116:123] = b"0000644", b"0000000", b"0000000"
    block[124:136], block[136:147] = b"%011o " % size, b"00000000000"
    block[156:157], block[257:265] = kind, b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("kind", [b"x", b"g", b"X", b"L", b"K"], ids=["pax", "global", "solaris", "name", "link"])
def test_long_headers_are_not_read(kind: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar.xz"
    zeros = bytes(1 << 20)
    packer = lzma.LZMACompressor(preset=0)
    parts = [
        packer.compress(tar_header(kind, 256 << 20)),
        *(packer.compress(zeros) for _ in range(256)),
        packer.flush(),
    ]
    path.write_bytes(b"".join(parts))
    tracemalloc.start()
    try:
        with pytest.raises(LimitError, match=r"headers of the archive have \d+ bytes, at most 1048576"):
            frereg.convert(path, model="unet")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000


def test_many_headers_one_after_the_other(tmp_path: Path) -> None:
    record = b"6 a=b\n".ljust(512, b"\0")
    for count in (5000, 900):
        path = tmp_path / "chain.tar"
        path.write_bytes((tar_header(b"x", 6) + record) * count + bytes(1024))
        with pytest.raises((LimitError, CorruptFileError)):
            frereg.convert(path, model="unet")


def test_sparse_members_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tar"
    path.write_bytes(tar_header(b"S", 10) + bytes(2048))
    with pytest.raises(CorruptFileError):
        frereg.convert(path, model="unet")


def test_a_packed_torch_file_that_expands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frereg, "MAX_ARCHIVE_BYTES", 100_000)
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 20))
    with pytest.raises(LimitError, match="expands to 1048576 bytes, at most 100000 are read"):
        frereg._read_tensors(tmp_path / "a.pt")
