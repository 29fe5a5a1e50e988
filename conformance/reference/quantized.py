"""SPEC.md, "Codec 3" to "Codec 5": numbers rounded to steps, from the payload to float32."""

import itertools
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from conformance.reference.refusal import require

ZERO = [
    *(61568, 59999, 57854, 54967, 51169, 46341, 40503, 33924, 27146, 20830, 15471, 11244, 8068, 5748, 4080, 2891),
    *(2046, 1447, 1024, 724, 512, 362, 256, 181, 128, 91, 64, 64, 64, 64, 64, 64),
]
STOP = [
    *(63490, 62645, 61456, 59788, 57468, 54292, 50065, 44706, 38390, 31612, 25033, 19195, 14367, 10569, 7682, 5537),
    *(3968, 2832, 2016, 1432, 1016, 720, 510, 361, 256, 181, 128, 90, 64, 64, 64, 64),
]
TRANSFORM, STEP, OFFSET, COUNT, WHOLE, AXES, SHIFT = range(32, 39)
ALONG_AXES, DEPENDENT = 4, 5
STATES = [(0, 2), (7, 5), (1, 3), (6, 4), (2, 0), (5, 7), (3, 1), (4, 6)]
MAX_WHOLE = 65_536

Index = tuple[int, ...]
Context = tuple[str, int, int]


@dataclass
class Tensor:
    """One of the stream: what is known of it, and what is read.

    Attributes:
        key: empty for coefficients, else the name behind the last dot.
        shape: of the dense tensor.
        indices: of its numbers in their order.
        is_whole: of type 11.
        is_coefficients: kept as coefficients.
        known: how many of the first numbers the levels below have; they have transform, step and offset too.
        parameters: transform, step, offset and count; with codec 4 axes, where the tensor has such.
        shifts: of each axis that the step differs along.
    """

    key: str
    shape: Index
    indices: list[Index]
    is_whole: bool = False
    is_coefficients: bool = False
    known: int = 0
    parameters: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    shifts: dict[int, list[int]] = field(default_factory=dict)

    @property
    def row(self) -> int:
        """The numbers of a row, of which 256 at a time depend on one another."""
        return len(self.indices) if self.is_coefficients or len(self.shape) < 2 else math.prod(self.shape[1:])

    @property
    def shifted(self) -> list[int]:
        """The axes that the step differs along."""
        axes = sum(self.parameters[4:])
        return [axis for axis in range(len(self.shape)) if axes >> axis & 1]

    def go_on(self, indices: list[Index]) -> None:
        """Take in the next level: these are the indices of all its numbers."""
        self.numbers += [0] * (len(self.indices) - len(self.numbers))
        self.known, self.indices = len(self.numbers), indices


def row_major(shape: Index) -> list[Index]:
    return list(itertools.product(*map(range, shape)))


class Coder:
    """What reading and writing share: contexts, sets, tensors. `decide` reads a bit, or writes the one given."""

    def __init__(self, below: "Coder | None" = None, codec: int = 3) -> None:
        """Begin anew, or with what the stream of the level below has learnt, and in its codec."""
        self.codec: int = below.codec if below else codec
        self.contexts: dict[Context, list[int]] = below.contexts if below else {}
        self.range = 2**32
        self.last: dict[str, list[int]] = below.last if below else {}
        self.mean: dict[str, int] = below.mean if below else {}
        self.whole: int = below.whole if below else 0

    def decide(self, bound: int, bit: int) -> int:
        raise NotImplementedError

    def plain(self, bit: int) -> int:
        return self.decide(self.range // 2, bit)

    def bit(self, context: Context, bit: int) -> int:
        kind, number, e = context
        level = number if number < 32 else (6, 13, 6, 6, 6, 6, 10)[number - 32]
        start = {"Z": ZERO[level], "Y": ZERO[min(level + 2, 31)], "B": STOP[max(level - 2 * e, 0)]}
        state = self.contexts.setdefault(context, [start.get(kind, 32768), 8])
        zero, seen = state
        found = self.decide(self.range // 65536 * zero, bit)
        rate = 131072 // (2 * seen + 3)
        zero = zero - zero * rate // 65536 if found else zero + (65536 - zero) * rate // 65536
        state[:] = [min(max(zero, 64), 65472), min(126, seen + 1)]
        return found

    def number(self, number_set: int, number: int = 0, *, zero: str = "Z") -> int:
        """Read a number, or write the one given."""
        magnitude = abs(number)
        if not self.bit((zero, number_set, 0), int(magnitude > 0)):
            return 0
        is_negative = self.plain(int(number < 0))
        e = 0
        while e < 19 and self.bit(("B", number_set, e), int(magnitude >= 2 ** (e + 1))):
            e += 1
        found = 1
        for place in reversed(range(e)):
            wanted = magnitude >> place & 1
            if place == e - 1:
                bit = self.bit(("M", number_set, e), wanted)
            elif place == e - 2:
                bit = self.bit(("N", e, found & 1), wanted)
            else:
                bit = self.plain(wanted)
            found = 2 * found + bit
        return -found if is_negative else found

    def run(self, tensor: Tensor) -> None:
        """The numbers of a tensor, after its parameters."""
        axes = [axis for axis, size in enumerate(tensor.shape) if size > 1]
        sums: dict[Index, list[int]] = {}
        total = count = 0
        mean = self.mean.get(tensor.key, 1024)
        recent, state, depends = mean, 0, self.depends(tensor)
        known, given = tensor.numbers[: tensor.known], tensor.numbers[tensor.known :]
        tensor.numbers = []
        for place, index in enumerate(tensor.indices[: tensor.known + max(0, self.claimed(tensor))]):
            g = (256 * total + 4 * mean) // (count + 4)
            u = logarithm((recent if len(axes) == 1 else g) + 8)
            v = 0
            for axis in axes if len(axes) > 1 else []:
                a, c = sums.get((axis, index[axis]), [0, 0])
                v += logarithm((256 * a + 8 * g) // (c + 8) + 8) - u
            level = min(max((u + (3 * v >> 2) - 60) >> 3, 0), 31)
            state = 0 if place % tensor.row % 256 == 0 else state
            odd = state % 2 if depends else 0
            if place < len(known):
                coded = halved(known[place], odd) if depends else known[place]
            else:
                wanted = given[place - len(known)] if given else 0
                coded = self.number(level, halved(wanted, odd) if depends else wanted, zero="Y" if odd else "Z")
            sign = (coded > 0) - (coded < 0)
            tensor.numbers.append(2 * coded - sign * odd if depends else coded)
            state = STATES[state][coded % 2]
            total, count = total + abs(coded), count + 1
            recent += (256 * abs(coded) - recent) >> 3
            for axis in axes:
                entry = sums.setdefault((axis, index[axis]), [0, 0])
                entry[0] += abs(coded)
                entry[1] += 1
        if count:
            self.mean[tensor.key] = 256 * total // count

    def depends(self, tensor: Tensor) -> bool:
        """Whether its numbers depend on those before them."""
        return self.codec == DEPENDENT and tensor.parameters[0] > 3

    def claimed(self, tensor: Tensor) -> int:
        count = tensor.parameters[3]
        return count - 1 if count else len(tensor.indices) - tensor.known

    def count(self, tensor: Tensor, given: int = 0) -> list[int]:
        """The parameters of a tensor whose first numbers are known: only the count is new."""
        last = self.last[tensor.key]
        last[3] += self.number(COUNT, given - last[3])
        return [*tensor.parameters[:3], last[3]]

    def parameters(self, tensor: Tensor) -> list[int]:
        """Read those of a tensor, or write those that it has."""
        last = self.last.setdefault(tensor.key, [0] * 5)
        has_axes = self.codec >= ALONG_AXES and not tensor.is_coefficients and len(tensor.shape) >= 2
        sets = (TRANSFORM, STEP, OFFSET, COUNT, AXES) if has_axes else (TRANSFORM, STEP, OFFSET, COUNT)
        given = [*tensor.parameters, *[0] * len(sets)]
        for place, number_set in enumerate(sets):
            last[place] += self.number(number_set, given[place] - last[place])
        return last[: len(sets)]

    def run_shifts(self, tensor: Tensor) -> None:
        """The shifts along the axes that the parameters name: read them, or write those that the tensor has."""
        given = {axis: tensor.shifts.get(axis, [0] * tensor.shape[axis]) for axis in tensor.shifted}
        tensor.shifts = {axis: [self.number(SHIFT, shift) for shift in shifts] for axis, shifts in given.items()}


class Reader(Coder):
    """Reads a payload."""

    def __init__(self, payload: bytes, below: Coder | None = None, codec: int = 3) -> None:
        super().__init__(below, codec)
        self.payload, self.read, self.offset = payload, 0, 0
        for _ in range(4):
            self.offset = self.offset * 256 + self.next_byte()

    def next_byte(self) -> int:
        self.read += 1
        return self.payload[self.read - 1] if self.read <= len(self.payload) else 0

    def decide(self, bound: int, bit: int) -> int:
        found = int(self.offset >= bound)
        if found:
            self.offset -= bound
            self.range -= bound
        else:
            self.range = bound
        while self.range < 2**24:
            self.offset = self.offset * 256 + self.next_byte()
            self.range *= 256
        return found

    def tensors(self, tensors: Sequence[Tensor]) -> None:
        """Fill in the parameters and numbers of all tensors."""
        whole = sum(len(tensor.indices) for tensor in tensors if tensor.is_whole)
        require(whole <= MAX_WHOLE, "quantized-whole", str(whole))
        most = 6144 * len(self.payload) + 49_152
        for tensor in tensors:
            if not tensor.is_whole:
                tensor.parameters = self.count(tensor) if tensor.known else self.parameters(tensor)
                t, s, _, c, *axes = tensor.parameters
                if self.codec == DEPENDENT:
                    require(0 <= t <= 7, "dependent-transform", str(t))
                else:
                    require(0 <= t <= 3, "quantized-parameters", str(t))
                require(-400 <= s <= 400, "quantized-parameters", str(s))
                rule = "level-count" if tensor.known else "quantized-parameters"
                require(0 <= c <= len(tensor.indices) - tensor.known, rule, f"count {c}")
                require(all(0 <= a < 2 ** len(tensor.shape) for a in axes), "quantized-axes", str(axes))
                most -= self.claimed(tensor) + sum(tensor.shape[axis] for axis in tensor.shifted)
            else:
                most -= len(tensor.indices)
            require(most >= 0, "quantized-claims")
            if tensor.is_whole:
                for _ in tensor.indices:
                    self.whole += self.number(WHOLE)
                    tensor.numbers.append(self.whole)
            else:
                self.run_shifts(tensor)
                self.run(tensor)
        require(self.read == len(self.payload) + 3 and self.offset < 2**24, "payload-quantized-end")


def halved(number: int, odd: int) -> int:
    """What is coded for a multiple of the step; for one that the state does not allow, that of the next smaller."""
    magnitude = (abs(number) + odd) // 2
    return -magnitude if number < 0 else magnitude


def logarithm(y: int) -> int:
    n = y.bit_length() - 1
    return 16 * n + (16 * y >> n) - 16


def values(tensor: Tensor) -> list[float]:
    """Return the numbers of a tensor of type 10, as float32."""
    t, s, o = tensor.parameters[:3]
    t %= 4
    require(not (tensor.is_coefficients and t), "quantized-transform")
    require(t != 3 or len(tensor.shape) >= 3, "quantized-transform")
    inverted = {2: tensor.shape, 3: tensor.shape[2:]}.get(t, ())
    require(max(inverted, default=0) <= 1 << 20, "quantized-line")
    for extreme in (min, max):
        furthest = s + 2 * sum(extreme(shifts, default=0) for shifts in tensor.shifts.values())
        require(-400 <= furthest <= 400, "quantized-shifts", str(furthest))
    numbers = tensor.numbers + [0] * (len(tensor.indices) - len(tensor.numbers))
    found = []
    for number, index in zip(numbers, tensor.indices, strict=True):
        shift = sum(shifts[index[axis]] for axis, shifts in tensor.shifts.items())
        found.append((number + o) * 2.0 ** ((s + 2 * shift) / 8))
    if t == 1:
        found = [2.0**y if y < 1024 else math.inf for y in found]
    elif t > 1:
        table = dict(zip(tensor.indices, found, strict=True))
        for axis in range(0 if t == 2 else 2, len(tensor.shape)):
            table = inverse(table, axis, tensor.shape[axis])
        found = [table[index] for index in tensor.indices]
    rounded = list(_as_float32(found))
    require(all(map(math.isfinite, rounded)), "quantized-finite")
    return rounded


def inverse(table: dict[Index, float], axis: int, size: int) -> dict[Index, float]:
    """Return the inverse of the orthonormal DCT-II along one axis."""
    made: dict[Index, list[float]] = {}
    for index, value in table.items():
        k = index[axis]
        scale = math.sqrt((1 if k == 0 else 2) / size)
        for n in range(size):
            place = (*index[:axis], n, *index[axis + 1 :])
            made.setdefault(place, []).append(value * scale * math.cos(math.pi * (2 * n + 1) * k / (2 * size)))
    return {place: math.fsum(parts) for place, parts in made.items()}


def _as_float32(numbers: Sequence[float]) -> Iterator[float]:
    for number in numbers:
        try:
            yield struct.unpack("<f", struct.pack("<f", number))[0]
        except OverflowError:
            yield math.inf
