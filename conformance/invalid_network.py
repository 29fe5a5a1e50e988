"""Invalid files of the corpus: those that do not fit the network they are read into, or its caps."""

from collections.abc import Iterator
from dataclasses import replace

from conformance.reference.decoder import digest_of
from conformance.valid import CHAIN, LINEAR, Named, linear, named, own, truncated_linear
from conformance.writer import Draft, items, list_of_others, shape


def tensors() -> Iterator[Named]:
    """Yield the digest, and the network that the file is read into."""
    plain, chain = linear(), named(CHAIN)
    flipped = bytes([plain.digest[0] ^ 1]) + plain.digest[1:]
    yield "digest-own", "own-digest", replace(plain, digest=flipped)
    yield "digest-registered", "digest", replace(chain, digest=flipped)
    both = own("linear", [(1, items(LINEAR, 0, b"\0", 3))])
    listed = items(2, b"\1", "weight", shape(2, 3), b"\1", "bias", shape(2))
    yield "own-kept-and-listed", "own-names", replace(both, others=listed, types=items(3, 2, b"\0"), digest=b"1234")
    yield "fit-own-other-network", "own-tensors", replace(own("half"), own="linear")
    yield "fit-own-fewer-tensors", "own-tensors", replace(own("row"), own="linear")
    yield "fit-own-kind", "digest", _relisted(plain, b"\0", 0)
    integers = own("linear", types={"bias": 5})
    yield "fit-type-integers", "tensor-type", integers
    yield "fit-type-chain", "tensor-type", named(CHAIN, types={"norm.num_batches_tracked": 0})
    yield "fit-type-smaller-integers", "tensor-type", named(CHAIN, types={"norm.num_batches_tracked": 5})
    yield "fit-range", "tensor-range", own("half", types={"bias": 0}, numbers={"bias": [65_520.0, 1.0]})
    yield "fit-range-double", "tensor-range", own("linear", types={"bias": 3}, numbers={"bias": [3.5e38, 1.0]})
    half = own("half", [(1, items(1, "weight", shape(2, 2), 0, b"\0", 1))], numbers={"weight": [-70_000.0]})
    yield "fit-range-coefficients", "tensor-range", half


def _relisted(draft: Draft, kind: bytes, place: int) -> Draft:
    """Return the file with another kind of one of its tensors, and the digest of that."""
    others = [
        replace(o, is_parameter=bool(kind[0]) if n == place else o.is_parameter) for n, o in enumerate(draft.tensors)
    ]
    return replace(draft, others=list_of_others(others), digest=digest_of(draft.kept, others))


def capped() -> Iterator[tuple[str, str, Draft, int]]:
    """More than a cap that the reader was given."""
    plain = linear()
    yield "total-own", "total-size", plain, 7
    yield "total-registered", "total-building", named(CHAIN), 16
    yield "total-coefficients", "total-size", truncated_linear(), 7
    huge = replace(plain, others=items(2, b"\1", "weight", shape(2, 3), b"\1", "bias", shape(2**40, 2**40)))
    yield "total-huge", "total-size", huge, 1 << 30
