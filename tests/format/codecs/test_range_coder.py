"""Codec 2, against a coder written a second time from its specification, in exact big numbers."""

import io
import math
import random
import tarfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tailcut.errors import CorruptFileError
from tailcut.format.codecs.range_coder import MAX_BYTES, RangeCoder


class ExactContexts:
    """The probabilities as the specification words them, by names of contexts, with exact fractions."""

    def __init__(self) -> None:
        self.zero: dict[str, int] = {}
        self.count: dict[str, int] = {}

    def probability(self, context: str) -> int:
        if context not in self.zero:
            self.zero[context] = 32768
            # A tree context is named by the bits on the way to it: fast on the levels 0 to 4.
            self.count[context] = 4 if context.isdigit() else (0 if len(context) <= 5 else 8)
        return self.zero[context]

    def adapt(self, context: str, bit: str) -> None:
        p, n = self.zero[context], self.count[context]
        rate = Fraction(math.floor(Fraction(131072, 2 * n + 3)), 65536)
        self.zero[context] = p + math.floor((65536 - p) * rate) if bit == "0" else p - math.floor(p * rate)
        self.count[context] = min(n + 1, 126)


def exact_payload(content: bytes, item_bytes: int) -> bytes:
    """The payload by exact arithmetic: `low` is never cut, so that carries need no care."""
    contexts = ExactContexts()
    low, width, num_bytes = 0, 1 << 32, 0
    for start in range(0, len(content), item_bytes):
        item = content[start : start + item_bytes][::-1]
        bits = "".join(f"{byte:08b}" for byte in item)
        bits = bits[1:] + bits[0]
        for position, bit in enumerate(bits):
            context = "t" + bits[:position] if position < 8 else str(len(bits) - 1 - position)
            if position < 8:
                context = context.replace("0", "o").replace("1", "i")
            bound = width // 65536 * contexts.probability(context)
            low, width = (low, bound) if bit == "0" else (low + bound, width - bound)
            contexts.adapt(context, bit)
            while width < 1 << 24:
                low, width, num_bytes = low * 256, width * 256, num_bytes + 1
    return math.ceil(Fraction(low, 1 << 24)).to_bytes(num_bytes + 1, "big")


@pytest.mark.parametrize("item_bytes", [1, 2, 4, 8])
@settings(max_examples=40, deadline=None)
@given(content=st.one_of(st.binary(min_size=8, max_size=64), st.binary(min_size=8, max_size=8).map(lambda x: x * 9)))
def test_payload_is_that_of_exact_arithmetic(item_bytes: int, content: bytes) -> None:
    content = content[: len(content) // item_bytes * item_bytes]
    assert RangeCoder().encode(content, item_bytes) == exact_payload(content, item_bytes)


@pytest.mark.parametrize("item_bytes", [1, 2, 4, 8])
@pytest.mark.parametrize("seed", range(2))
def test_long_payload_is_that_of_exact_arithmetic(item_bytes: int, seed: int) -> None:
    source = random.Random(seed)
    skewed = bytes(source.choices((0, 255), (1, 5 + 20 * seed), k=1600))
    for content in (source.randbytes(1600), skewed, b"\xff" * 1600):
        payload = RangeCoder().encode(content, item_bytes)
        assert payload == exact_payload(content, item_bytes)
        assert RangeCoder().decode(payload, len(content), item_bytes) == content


def test_a_carry_runs_through_several_bytes() -> None:
    # Found by search: while this is coded, a carry meets two bytes 255 at the end of the payload so far.
    content = bytes.fromhex("8f979d40e158cec01142178310bdcb347fb896680524c55b")
    payload = RangeCoder().encode(content, 2)
    assert payload == exact_payload(content, 2)
    assert RangeCoder().decode(payload, len(content), 2) == content


@settings(max_examples=300, deadline=None)
@given(payload=st.binary(max_size=24), num_items=st.integers(1, 8))
def test_only_the_encoders_own_payload_is_accepted(payload: bytes, num_items: int) -> None:
    try:
        content = RangeCoder().decode(payload, 2 * num_items, 2)
    except CorruptFileError:
        return
    assert RangeCoder().encode(content, 2) == payload


def test_every_payload_of_one_byte_contents_is_its_own() -> None:
    payloads = [RangeCoder().encode(bytes([value]), 1) for value in range(256)]
    assert len(set(payloads)) == 256
    # The code is one-to-one, so of all strings of up to two bytes exactly those are accepted.
    accepted = set()
    for size in range(3):
        for value in range(256**size):
            payload = value.to_bytes(size, "big")
            try:
                RangeCoder().decode(payload, 1, 1)
            except CorruptFileError:
                continue
            accepted.add(payload)
    assert accepted == set(payloads)


def test_the_size_of_the_content_is_limited() -> None:
    assert RangeCoder().encode(b"", 2) is None
    assert RangeCoder().encode(bytes(MAX_BYTES + 2), 2) is None
    payload = RangeCoder().encode(bytes(MAX_BYTES), 8)
    assert payload is not None
    assert RangeCoder().decode(payload, MAX_BYTES, 8) == bytes(MAX_BYTES)
    for num_bytes in (0, MAX_BYTES + 8, 1 << 62):
        with pytest.raises(CorruptFileError, match=f"expected 1 to {MAX_BYTES} bytes of content"):
            RangeCoder().decode(payload, num_bytes, 8)


def gaussian(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(count)


@pytest.mark.parametrize(
    ("numbers", "most"),
    [
        (gaussian(776).astype("<f2"), 0.85),
        (gaussian(776).astype("<f4"), 0.84),
        (gaussian(776).astype("<f2").astype("<f4"), 0.47),
        (gaussian(4238).astype("<f2"), 0.845),
        (np.zeros(4096, "<f4"), 0.007),
        (np.frombuffer(random.Random(0).randbytes(16000), "<u2"), 1.006),
    ],
    ids=["776 float16", "776 float32", "776 float16 in float32", "4238 float16", "zeros", "random bytes"],
)
def test_payloads_are_as_short_as_promised(numbers: np.ndarray, most: float) -> None:
    payload = RangeCoder().encode(numbers.tobytes(), numbers.itemsize)
    assert payload is not None
    assert len(payload) <= most * numbers.nbytes


def published_coefficients(root: Path) -> list[np.ndarray]:
    """The 33 coefficients of each of the 23 layers of the published UNet, float32."""
    with tarfile.open(root / "carvana" / "published" / "unet_fr.tar.xz") as archive:
        members = [archive.extractfile(member) for member in archive if member.isfile()]
        (content,) = [member.read() for member in members if member is not None]
    tensors = torch.load(io.BytesIO(content), weights_only=True)
    return [tensor.coalesce().values().numpy() for tensor in tensors.values()]


def test_the_published_network_shrinks_by_an_eighth(carvana_root: Path) -> None:
    coefficients = np.concatenate(published_coefficients(carvana_root)).astype("<f2")
    assert coefficients.nbytes == 1518
    payload = RangeCoder().encode(coefficients.tobytes(), 2)
    assert payload is not None
    assert len(payload) <= 1335
    assert RangeCoder().decode(payload, 1518, 2) == coefficients.tobytes()
