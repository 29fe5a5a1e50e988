"""Weights from checkpoints of other projects (`torch.save` or safetensors), read by name and without running code."""

import io
import os
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from tailcut.errors import DataError, ModelMismatchError
from tailcut.files import is_device
from tailcut.format.container.numbers import overflowing
from tailcut.printing import named

# Where training scripts put the tensors beside the epoch and the optimiser's state.
NESTED_KEYS = ("state_dict", "model", "model_state_dict", "net")
_COMPILED = "_orig_mod"
# What DataParallel, AveragedModel and torch.compile put before every name.
PREFIXES = ("module.", f"{_COMPILED}.")
# What AveragedModel has beside the network: how many were averaged.
_AVERAGE, _AVERAGED = "module.", "n_averaged"
# What real files have is one or two around another; a file may hold a dict within itself.
MAX_WRAPPINGS = 16
MAX_NAMED = 5
MAX_EXPANDED_BYTES = 1 << 30
"""What a file may expand to, if that is more than the file itself: torch stores tensors as they are."""
_ZIP = b"PK\x03\x04"
_INDEX = ".index.json"  # of the files that Hugging Face splits a checkpoint into
_BLOCK = 1 << 20  # bytes of an archive's member that are read at a time
# A pickle of an archive may be as long as the archive, or this: torch does not pack it, and each of its bytes can take
# fifty as many as an object.
MIN_PICKLE_BYTES = 1 << 20
# What a file of torch.save from before version 1.6 has before its tensors: a number, a version, a system, content and
# keys.
_LEGACY_PICKLES = 5
# It makes as many bytes as the file says, without having them.
_REFUSED = "bytearray"
# Counters that checkpoints from before torch 0.4.1 do not have; only batch norm without a momentum reads them.
_COUNTER = "num_batches_tracked"


class _ProgramError(Exception):
    """An archive holds a network's code as well as its weights."""


def load_checkpoint(path: str | Path, model: nn.Module) -> None:
    """Fill `model` with the weights of a checkpoint (changes the module). On an error it is left as it was.

    Args:
        path: a file of `torch.save` (read with weights_only: no code in it is run) or `.safetensors`: tensors by
            name, or these under the key `state_dict`, `model`, `model_state_dict` or `net`. `module.` and `_orig_mod.`
            before all names are taken off, up to sixteen of them, and the `n_averaged` of torch's AveragedModel.
            Names and shapes must be those of the model's state_dict; batch norm's counters may be missing.
        model: the network. Its types and device stay.

    Raises:
        DataError: the file cannot be read, or holds something else.
        ModelMismatchError: names or shapes differ; the message lists which.
        FileNotFoundError: there is no such file.
    """
    fill_in(model, read_tensors(path), path)


def fill_in(model: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Fill `model` with tensors by name, as `load_checkpoint` does (changes the module).

    Args:
        model: the network.
        tensors: of its state_dict, but for batch norm's counters.
        path: where they come from, for messages.

    Raises:
        ModelMismatchError: names or shapes differ, or whole or complex numbers stand where weights should; the message
            lists which.
    """
    own: dict[str, Tensor] = model.state_dict(keep_vars=True)
    tensors = with_tied(own, tensors)
    problems = mismatches(own, tensors)
    if problems:
        raise ModelMismatchError(f"{path} does not fit {type(model).__name__}: {'; '.join(problems)}")
    check_numbers(model, tensors, path)
    _check_tied(own, tensors, path)
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].copy_(value)


def mismatches(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """Return how the names and shapes of a file's tensors differ from a network's own, in words, the first few."""
    missing = [name for name in own if name not in tensors and not name.endswith(_COUNTER)]
    unexpected = [name for name in tensors if name not in own]
    wrong = [
        f"{name} has shape {tuple(value.shape)} in the file, {tuple(own[name].shape)} in the model"
        for name, value in tensors.items()
        if name in own and value.shape != own[name].shape
    ]
    problems = [
        f"{what}: {named(names, MAX_NAMED)}"
        for what, names in (("missing in the file", missing), ("unknown to the model", unexpected), ("wrong", wrong))
        if names
    ]
    if any(_COMPILED in name.split(".") for name in (*unexpected, *missing)):
        problems.append(
            f"{_COMPILED} in names is torch.compile's: store the state_dict of the network before parts of it are "
            f"compiled, or fill one in whose same parts are compiled, or take {_COMPILED!r} out of the names"
        )
    return problems


def check_numbers(model: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise `ModelMismatchError` where torch would change numbers silently, for a type that does not hold them."""
    own: dict[str, Tensor] = model.state_dict(keep_vars=True)
    codes = [
        f"{name} is {value.dtype} in the file, {own[name].dtype} in the model"
        for name, value in tensors.items()
        if name in own and own[name].is_floating_point() and not value.is_floating_point()
    ]
    if codes:
        raise ModelMismatchError(
            f"{path} does not fit {type(model).__name__}: {named(codes, MAX_NAMED)}; whole numbers are no weights "
            "without their scale, and complex ones would lose a part: save the weights as floating-point numbers"
        )
    for name, value in tensors.items():
        if name not in own:
            continue
        dtype = own[name].dtype
        if not dtype.is_floating_point and not dtype.is_complex and (value.is_floating_point() or value.is_complex()):
            raise ModelMismatchError(f"{path}: {name} is {value.dtype} in the file, {dtype} in the model")
        largest = overflowing(value, dtype)
        if largest is not None:
            raise ModelMismatchError(f"{path}: {name} has {largest:.3g}, which does not fit into {dtype} of the model")


def with_tied(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the tensors of a file with those added that it has under another name of the same parameter.

    Files of safetensors.torch.save_model hold tied weights once.
    """
    first = {id(own[name]): name for name in tensors if name in own}
    tied = {name: first[id(value)] for name, value in own.items() if name not in tensors and id(value) in first}
    return {**tensors, **{name: tensors[there] for name, there in tied.items()}} if tied else tensors


def _check_tied(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise `ModelMismatchError` where a parameter of several names has several values in the file."""
    first: dict[int, str] = {}
    for name in tensors:
        earlier = first.setdefault(id(own[name]), name)
        if earlier != name and not _are_same(tensors[earlier], tensors[name]):
            raise ModelMismatchError(
                f"{path}: {earlier} and {name} are one parameter of the model, but have other numbers in the file"
            )


def _are_same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors hold the same numbers; what is no number is the same as another."""
    other = other.to(one.dtype)
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name, on the CPU; see `load_checkpoint`."""
    return named_tensors(read_state(Path(path)), path)


def named_tensors(content: Any, path: str | Path) -> OrderedDict[str, Tensor]:
    """Return the tensors of the checkpoint at `path` by name, unwrapped from the usual outer dicts.

    Torch's metadata is kept if the state dict has it: it holds the meaning of coefficients.

    Raises:
        DataError: there are none, or there is something else among them.
    """
    for _ in range(MAX_WRAPPINGS):
        if not isinstance(content, Mapping):
            break
        content = next((content[key] for key in NESTED_KEYS if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping) or not content:
        raise DataError(f"{path} holds no tensors by name, but {_described(content)}")
    strange = next((name for name, value in content.items() if not isinstance(value, Tensor)), None)
    if strange is not None:
        hint = "; save the dict of tensors in it alone" if isinstance(content[strange], Mapping) else ""
        raise DataError(f"{path} is no checkpoint of weights: {strange!r} is {_described(content[strange])}{hint}")
    _check_plain(content, path)
    # Torch's reader takes such a size where another is 0.
    negative = next((name for name, value in content.items() if any(size < 0 for size in value.shape)), None)
    if negative is not None:
        raise DataError(f"{path} is damaged: {negative!r} has the shape {tuple(content[negative].shape)}")
    tensors = {str(name): Tensor.detach(value) for name, value in content.items()}  # a file may set attributes
    given = getattr(content, "_metadata", None)  # of a file: anything
    metadata = {str(name): entry for name, entry in given.items()} if isinstance(given, Mapping) else {}
    metadata = {name: entry for name, entry in metadata.items() if isinstance(entry, Mapping)}
    return _unwrapped(tensors, metadata)


def _check_plain(tensors: Mapping[Any, Tensor], path: str | Path) -> None:
    """Raise `DataError` for a tensor whose numbers do not lie there one by one."""
    for name, value in tensors.items():
        strided = value.layout == torch.strided
        kinds = {"nested": value.is_nested, "sparse": not strided, "quantized": value.is_quantized}
        kind = next((kind for kind, holds in kinds.items() if holds), None)
        if kind is not None or value.is_meta:
            what = f"is a {kind} tensor" if kind else "has no numbers (it was saved from the meta device)"
            raise DataError(f"{path}: {name!r} {what}; save the network with dense weights")


def _unwrapped(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> OrderedDict[str, Tensor]:
    """Return the names without the prefixes of wrappers around the network, in any order."""
    for _ in range(MAX_WRAPPINGS):
        count = tensors.get(_AVERAGED)
        rest = {name: value for name, value in tensors.items() if name != _AVERAGED}
        if count is not None and count.ndim == 0 and rest and all(name.startswith(_AVERAGE) for name in rest):
            tensors = rest
        prefix = next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
        # Metadata are named after modules: that of the network itself is "module", without the dot.
        metadata = {name[len(prefix) :]: entry for name, entry in metadata.items() if f"{name}.".startswith(prefix)}
    state = OrderedDict(tensors)
    state._metadata = metadata  # type: ignore[attr-defined]
    return state


def read_torch_file(path: str | Path) -> Any:
    """Return the content of a `torch.save` file with its tensors on the CPU; no code in the file is run.

    Raises:
        DataError: the file cannot be read, is damaged, holds more than tensors and plain values, or expands to more
            than a GiB and its own size.
    """
    try:
        _check_is_no_program(path)
        expanded = expanded_bytes(path)
        if expanded <= max(MAX_EXPANDED_BYTES, Path(path).stat().st_size):
            _check_checksums(path)
            return load_plain(path)
    except (OSError, _ProgramError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    except Exception as error:
        # Errors of torch's readers on foreign bytes. Their text advises to load without
        # weights_only, which would run what the file says.
        raise DataError(
            f"cannot read {path}: it is damaged, or no file of torch.save, or holds other things than tensors and "
            f"plain values ({type(error).__name__}); if it is a whole pickled module, save model.state_dict() instead"
        ) from error
    raise DataError(f"{path} is packed and expands to {expanded:,} bytes, at most {MAX_EXPANDED_BYTES:,} are read")


def _check_is_no_program(path: str | Path) -> None:
    """Raise `_ProgramError` for an archive of `torch.jit.save` or `torch.export.save`, which holds a program."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist()}
    if "constants.pkl" in names and "data.pkl" in names:
        raise _ProgramError("it is TorchScript, a program: save the state_dict of what torch.jit.load gives")
    if "archive_format" in names:
        raise _ProgramError("it is an exported program: save the state_dict of what torch.export.load gives")


def _check_checksums(path: str | Path) -> None:
    """Raise `OSError` for an archive with a damaged member: torch's reader does not look at the checksums."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        for entry in _members(archive):
            try:
                with archive.open(entry) as member:
                    while member.read(_BLOCK):
                        pass
            except zipfile.BadZipFile as error:
                raise OSError(f"it is damaged: {error}") from error


def _members(archive: zipfile.ZipFile) -> Iterator[zipfile.ZipInfo]:
    """Yield the members of an archive. Of those without a checksum, `zipfile` will look at none.

    Torch writes a 0 where `torch.serialization.set_crc32_options(False)` says so.
    """
    for entry in archive.infolist():
        if entry.CRC == 0:
            entry.CRC = None  # type: ignore[assignment]
        yield entry


def load_plain(file: str | Path | IO[bytes], device: str = "cpu") -> Any:
    """Return the content of a `torch.save` file: tensors and plain values, of no more bytes than the file expands to.

    Torch takes `bytearray` for a plain value, and so 400 bytes of a file for as many GiB as they say. In a file from
    before version 1.6 it does so with the size of a storage, or of a tensor in it.

    Args:
        file: a path, or a file that can be read again.
        device: of the tensors.

    Raises:
        DataError: there is a `bytearray` in it, or tensors of more bytes than the file.
        Exception: of any kind, by torch's readers of foreign bytes.
    """
    num_bytes = _legacy_bytes(file)
    for pickle in _pickles(file, is_zip=num_bytes is None):
        for code, argument, _ in pickletools.genops(pickle):
            if code.name == "GLOBAL" and str(argument).split(" ")[-1] == _REFUSED:
                raise DataError(f"a {_REFUSED} is no plain value: its size is not that of the file")
    place: Any = device if num_bytes is None or device != "cpu" else _kept_sizes(num_bytes)
    return torch.load(file, map_location=place, weights_only=True)


def _kept_sizes(num_bytes: int) -> Callable[[torch.UntypedStorage, str], torch.UntypedStorage]:
    """Return a `map_location` for a file of so many bytes: storages on the CPU that keep their size.

    Torch has taken memory for a storage by then, but not written to it yet; and lets a tensor that goes beyond its
    storage enlarge it.

    Raises:
        DataError: when called, of storages that are larger than the file.
    """
    total = 0

    def keep_size(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
        nonlocal total
        total += storage.nbytes()
        if total > num_bytes:
            raise DataError(f"its tensors have {total:,} bytes, the file {num_bytes:,}")
        return torch.from_numpy(np.empty(storage.nbytes(), np.uint8)).untyped_storage()

    return keep_size


@contextmanager
def _opened(file: str | Path | IO[bytes]) -> Iterator[IO[bytes]]:
    """Open a file; one that is open already is where it was after the block."""
    if isinstance(file, (str, Path)):
        with Path(file).open("rb") as stream:
            yield stream
        return
    start = file.tell()
    try:
        yield file
    finally:
        file.seek(start)


def _legacy_bytes(file: str | Path | IO[bytes]) -> int | None:
    """Return the bytes of a file that is no zip archive; None for an archive, whose members torch compares by size."""
    with _opened(file) as stream:
        start = stream.tell()
        return None if stream.read(len(_ZIP)) == _ZIP else stream.seek(0, os.SEEK_END) - start


def _pickles(file: str | Path | IO[bytes], *, is_zip: bool) -> Iterator[IO[bytes]]:
    """Yield each pickle of a file, as torch reads it: to its end if the file is no zip archive."""
    with _opened(file) as stream:
        if not is_zip:
            yield from [stream] * _LEGACY_PICKLES
            return
        start = stream.tell()
        most = max(MIN_PICKLE_BYTES, stream.seek(0, os.SEEK_END) - start)
        stream.seek(start)
        with zipfile.ZipFile(stream) as archive:
            for entry in _members(archive):
                if entry.filename.lower().endswith("data.pkl"):  # torch's reader does not look at the case
                    if entry.file_size > most:
                        raise DataError(f"{entry.filename} expands to {entry.file_size:,} bytes, more than the file")
                    yield io.BytesIO(archive.read(entry))


def expanded_bytes(file: str | Path | IO[bytes]) -> int:
    """Return what the members of a zip archive, as torch writes them, expand to; 0 for another file.

    Raises:
        zipfile.BadZipFile: the archive is damaged.
    """
    if not zipfile.is_zipfile(file):
        return 0
    try:
        with zipfile.ZipFile(file) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    except (ValueError, NotImplementedError, EOFError, struct.error) as error:  # of names, versions, and its end
        raise zipfile.BadZipFile(str(error)) from error


def check_is_file(path: Path) -> None:
    """Raise `FileNotFoundError` unless it is a file."""
    if path.is_file():
        return
    if is_device(path):
        raise FileNotFoundError(f"{path} is no regular file, but a pipe, a socket or a device")
    raise FileNotFoundError(f"{path} is a folder, not a file" if path.is_dir() else f"there is no file {path}")


def read_state(path: Path) -> Any:
    """Return what a file of safetensors or of `torch.save` holds; see `read_torch_file`.

    Raises:
        FileNotFoundError: there is none.
        DataError: it cannot be read.
    """
    check_is_file(path)
    if path.name.endswith(_INDEX):
        raise DataError(
            f"{path} lists the files that a checkpoint is split into: give these, one after another, or join them "
            "(safetensors.torch.load_file of each, then save_file of all)"
        )
    if _is_safetensors(path):
        try:
            return safetensors.torch.load_file(path)
        except (SafetensorError, OSError) as error:
            raise DataError(f"cannot read {path}: {error}") from error
    return read_torch_file(path)


def _is_safetensors(path: Path) -> bool:
    """Return whether a file is one of safetensors, whatever its name: a length, and a JSON object of that length.

    One that is called so and begins otherwise is, too: it is damaged.

    Raises:
        DataError: it is called so, and is one of torch, which goes by the name as well.
    """
    with path.open("rb") as stream:
        start = stream.read(9)
    if path.suffix == ".safetensors" and start.startswith(_ZIP):
        raise DataError(f"{path} is a file of torch.save: give it another name, such as {path.with_suffix('.pt').name}")
    begins_so = len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size
    return begins_so or path.suffix == ".safetensors"


def _described(value: object) -> str:
    return "an empty dict" if isinstance(value, Mapping) and not value else f"a {type(value).__name__}"
