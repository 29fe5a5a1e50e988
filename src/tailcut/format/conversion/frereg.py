"""Reader for the networks that the authors of Frequency Regularization published ("frereg").

The authors' `unet_fr.tar.xz` holds a torch file `unet_fr.pt`: a dict of sparse float32 tensors, the orthonormal
DCT coefficients of each weight, in the order of the network's layers, most of them zero.
"""

import io
import lzma
import tarfile
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from tailcut.errors import ArgumentError, CorruptFileError, LimitError, ModelMismatchError
from tailcut.format.conversion.checkpoints import check_is_file, expanded_bytes, load_plain
from tailcut.structure import create_model
from tailcut.structure.wire import Value
from tailcut.transform import l1_rank
from tailcut.weights import regularize, truncated_tensors

MAX_ARCHIVE_BYTES = 1 << 30
# tarfile reads a PAX or GNU header whole, however long it says it is; those that exist have a few hundred bytes.
MAX_HEADER_BYTES = 1 << 20
MAX_MEMBERS = 1 << 10
_HEADER_TYPES = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_ARCHIVE_ERRORS = (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error, RecursionError, ValueError)
# What the published networks are, as arguments of the registered families.
PUBLISHED_ARGUMENTS: Mapping[str, Mapping[str, Value]] = {
    "unet": {"bias": False, "affine": False, "running_stats": False},
}


def convert(path: str | Path, *, model: str, arguments: Mapping[str, Value] | None = None) -> nn.Module:
    """Rebuild a network published with Frequency Regularization, for `save`.

    Args:
        path: the authors' `.tar.xz`, or the bare `.pt` in it (read with weights_only, never unpickled).
        model: the registered family it belongs to, for example "unet".
        arguments: of the family; those of the published network when None.

    Returns:
        The network in evaluation mode, each weight regularised to the coefficients that the file keeps.

    Raises:
        LimitError: an archive expands to more than a GiB, or its headers have more than a MiB.
        CorruptFileError: the file is no archive or torch file, or holds other things than tensors.
        ModelMismatchError: number or shapes of the tensors are not those of the family's weights, or kept
            coefficients are no low-frequency corner.
        FileNotFoundError: there is no such file.
    """
    tensors = _read_tensors(Path(path))
    chosen = PUBLISHED_ARGUMENTS.get(model, {}) if arguments is None else arguments
    network = create_model(model, **chosen)
    names = [name for name, parameter in network.named_parameters() if parameter.ndim > 1]
    if len(names) != len(tensors):
        raise ModelMismatchError(f"{path} holds {len(tensors)} tensors, {model!r} has {len(names)} weights")
    parameters = dict(network.named_parameters())
    counts, vectors = {}, {}
    for name, (key, tensor) in zip(names, tensors.items(), strict=True):
        if tuple(tensor.shape) != tuple(parameters[name].shape):
            found = tuple(parameters[name].shape)
            raise ModelMismatchError(f"{path}: {key} has shape {tuple(tensor.shape)}, {name} of {model!r} {found}")
        vectors[name] = _first_coefficients(key, tensor)
        counts[name] = len(vectors[name])
    regularize(network, num_kept=counts, warn=False)
    with torch.no_grad():
        for entry in truncated_tensors(network):
            entry.vector.copy_(vectors[entry.name])
    return network.eval()


def _first_coefficients(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return the coefficients from the first to the last non-zero one, in canonical order."""
    sparse = (tensor if tensor.layout == torch.sparse_coo else tensor.to_dense().to_sparse_coo()).coalesce()
    index, values = sparse.indices(), sparse.values()
    nonzero = values != 0
    index, values = index[:, nonzero], values[nonzero]
    if values.numel() == 0:
        return torch.zeros(1)
    # Ranks are needed inside the smallest corner that holds the coefficients only.
    last = int(index.sum(0).max())
    corner = [min(size, last + 1) for size in tensor.shape]
    ranks = l1_rank(corner)[tuple(index)]
    vector = torch.zeros(int(ranks.max()) + 1)
    vector[ranks] = values.float()
    if len(vector) > 2 * len(values) + 64:
        raise ModelMismatchError(f"{key}: its {len(values)} coefficients are no low-frequency corner")
    return vector


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    check_is_file(path)
    content = path.read_bytes()
    if _is_archive(path):
        content = _only_torch_member(path)
    try:
        expanded = expanded_bytes(io.BytesIO(content))
        if expanded > MAX_ARCHIVE_BYTES:
            raise LimitError(f"{path} expands to {expanded} bytes, at most {MAX_ARCHIVE_BYTES} are read")
        with torch.sparse.check_sparse_tensor_invariants(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Validating sparse tensor invariants")  # torch 2.15 warns that it does
            loaded = load_plain(io.BytesIO(content))
    except LimitError:
        raise
    except Exception as error:
        # The text of torch's error advises to load without weights_only, which would run what the file says.
        raise CorruptFileError(
            f"{path} is neither a .tar.xz with a torch file in it nor a torch file, or it holds other things than "
            f"tensors ({type(error).__name__})"
        ) from error
    if isinstance(loaded, (list, tuple)):
        loaded = {f"tensor {place}": value for place, value in enumerate(loaded)}
    if not isinstance(loaded, dict) or not loaded or not all(map(_is_real_tensor, loaded.values())):
        raise CorruptFileError(f"{path} does not hold a dict or list of floating-point tensors")
    return {str(key): value for key, value in loaded.items()}


def _is_archive(path: Path) -> bool:
    """As `tarfile.is_tarfile`, which reads the first header however long it is."""
    try:
        with tarfile.open(path, tarinfo=_bounded_info()):
            return True
    except LimitError as error:
        raise LimitError(f"{path}: {error}") from error
    except _ARCHIVE_ERRORS:
        return False


def _is_real_tensor(value: object) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.dtype.is_floating_point
        and value.itemsize > 1  # torch computes nothing with eight bits
        and not value.is_nested
        and not value.is_meta
    )


def _bounded_info() -> type[tarfile.TarInfo]:
    """For one archive: members that refuse long headers before their content is read."""
    read = 0

    class BoundedInfo(tarfile.TarInfo):
        # The hooks where tarfile reads a header's content by its type; its public API has none.
        def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
            nonlocal read
            if self.type == tarfile.GNUTYPE_SPARSE:
                raise tarfile.ReadError("it holds a sparse file")
            if self.type in _HEADER_TYPES:
                read += tarfile.BLOCKSIZE + max(0, self.size)
            if read > MAX_HEADER_BYTES:
                raise LimitError(
                    f"the headers of the archive have {read} bytes, at most {MAX_HEADER_BYTES} are allowed"
                )
            found: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
            return found

        def _proc_gnusparse_10(self, *_: object) -> None:
            raise tarfile.ReadError("it holds a sparse file")

    return BoundedInfo


def _only_torch_member(path: Path) -> bytes:
    try:
        with tarfile.open(path, tarinfo=_bounded_info()) as archive:
            members, total = [], 0
            for count, member in enumerate(archive, start=1):
                if count > MAX_MEMBERS:
                    raise LimitError(f"{path} holds more than {MAX_MEMBERS} members")
                # Checked one by one: to reach the next member, all of this one is decompressed.
                total += member.size
                if total > MAX_ARCHIVE_BYTES:
                    raise LimitError(f"{path} expands to more than {MAX_ARCHIVE_BYTES} bytes")
                if member.isfile() and member.name.endswith((".pt", ".pth")):
                    members.append(member)
            if len(members) != 1:
                raise ArgumentError(f"{path} holds {len(members)} torch files (.pt), expected one")
            file = archive.extractfile(members[0])
            return file.read() if file is not None else b""
    except (LimitError, ArgumentError):
        raise
    except _ARCHIVE_ERRORS as error:
        raise CorruptFileError(f"{path} is no readable archive: {error}") from error
