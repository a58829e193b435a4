"""Whole numbers of a plane (rows × columns) to bits: what is near says how large the next one will be.

A number is a chain of decisions: is it zero, is it negative, does its magnitude reach 2, 4, 8, …, and the bits below.
For each decision ten contexts give a probability each, learned as coding goes on; they are mixed in the logistic domain
by weights that are learned too. Five contexts are expected magnitudes, and begin with what a geometric distribution of
that mean says; the others are patterns of neighbours and begin with what the expected magnitude says.

Encoder and decoder run the same function, in integers only. Every index is bounded by what is checked before, whatever
the bytes say: contexts are computed from numbers below 2²⁵, and their sums from at most 2³² of them.

Source: M. Mahoney, Adaptive Weighing of Context Models for Lossless Data Compression, Florida Tech CS-2005-16, §3 (the
mixing); the contexts are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np

from compression_gate.codec import logistic
from compression_gate.codec.compiling import compiled, inlined
from compression_gate.codec.logistic import (
    BUCKETS,
    EXPONENT,
    LARGEST_LOGIT,
    MANTISSA,
    MODELLED_EXPONENT,
    MOST_EXPONENT,
    MOST_SEEN,
    NODES,
    SIGN,
    ZERO,
)
from compression_gate.codec.range_coder import FULL, POSITION, code_bit

SIZED = 5  # contexts that are an expected magnitude
PATTERNS = 5
CONTEXTS = SIZED + PATTERNS
PATTERN_SIZE = 256
PLACE_SIZE = 1024  # of the context that knows the column
PATTERN_NODES = EXPONENT + 3  # patterns tell magnitudes of 3 and more no further apart
TOGETHER, FEWER = 1, 3  # the best single context; how many serve the lower bits of a magnitude
SIGN_SIZE = 1024
SIZED_SLOTS = SIZED * BUCKETS * NODES
PATTERN_SLOTS = ((PATTERNS - 1) * PATTERN_SIZE + PLACE_SIZE) * PATTERN_NODES
SIGN_SLOTS = CONTEXTS * SIGN_SIZE
NEGATIVE_SLOTS = BUCKETS * NODES  # of the first context, where the symbol is negative: −2 to 1 is no rare range
SIGN_SLOTS_BEGIN = SIZED_SLOTS + PATTERN_SLOTS
SLOTS = SIZED_SLOTS + PATTERN_SLOTS + SIGN_SLOTS + NEGATIVE_SLOTS
FIRST_WEIGHT = 65536 * 12 // 100
FASTEST, SLOWEST, SETTLED = 24, 3, 80  # learning rates of the weights, first and last, and when that is reached
MOST_ROWS_OF_SYMBOLS = 1 << 32
ROOM = 5 * (MOST_EXPONENT + 2 + MOST_EXPONENT)  # bytes that one symbol can take at most, and more


@cache
def first_probabilities() -> np.ndarray:
    """What slots begin with; 0 where that depends on what is known when they are first asked."""
    first = np.zeros(SLOTS, dtype=np.uint16)
    first[:SIZED_SLOTS] = np.tile(logistic.priors().reshape(-1), SIZED)
    first[SIGN_SLOTS_BEGIN : SIGN_SLOTS_BEGIN + SIGN_SIZE] = 32768
    first[SIGN_SLOTS_BEGIN + SIGN_SLOTS :] = logistic.priors().reshape(-1)
    return first


@dataclass(frozen=True)
class Learned:
    """What coding has learned so far; several planes may go through one.

    Args:
        probabilities, seen: of each slot, and how often it was asked.
        weights, asked: of each decision's mixing, and how often it was mixed.
    """

    probabilities: np.ndarray = field(default_factory=lambda: first_probabilities().copy())
    seen: np.ndarray = field(default_factory=lambda: (first_probabilities() > 0).astype(np.uint8))
    weights: np.ndarray = field(default_factory=lambda: np.full((NODES, CONTEXTS), FIRST_WEIGHT, dtype=np.int32))
    asked: np.ndarray = field(default_factory=lambda: np.zeros(NODES, dtype=np.int64))

    def copy(self) -> Learned:
        """As it is now, to try something out on."""
        return Learned(self.probabilities.copy(), self.seen.copy(), self.weights.copy(), self.asked.copy())


def code_plane(
    coder: np.ndarray,
    buffer: np.ndarray,
    learned: Learned,
    symbols: np.ndarray,
    stride: int,
    kernel: int,
    producers: np.ndarray,
    *,
    encoding: bool,
) -> tuple[bool, int]:
    """Encode symbols, or fill them in.

    Args:
        coder, buffer: see :mod:`range_coder`.
        symbols: int32 ``(R, C)``, magnitudes below 2^(MOST_EXPONENT + 1).
        stride: how many columns back the neighbour in another dimension is, 1 or more.
        kernel: columns of one repetition, 1 or more: the size of a convolution's kernel.
        producers: bucket of what each of ``P`` groups of columns comes from, int64 ``(P,)``; empty where not known.

    Returns:
        Whether the buffer had room, and what it cost [bits / 65,536].
    """
    rows, columns = symbols.shape
    assert stride >= 1
    assert kernel >= 1
    assert rows * columns < MOST_ROWS_OF_SYMBOLS
    group = columns // len(producers) if len(producers) and columns % len(producers) == 0 else 0
    cost = code_symbols(
        symbols, stride, kernel, producers, group, coder, buffer, learned.probabilities, learned.seen,
        learned.weights, learned.asked, logistic.probabilities(), logistic.logits(), logistic.rates(),
        logistic.prices(), encoding,
    )  # fmt: skip
    return cost != FULL, int(cost)


@inlined
def bucket_of(total: int, count: int) -> int:
    """Half octave of ``total / count``, as :func:`logistic.priors` counts them."""
    scaled = (total << 9) // count
    if scaled <= 1:
        return 0
    octave = 0
    rest = scaled
    while rest > 1:
        rest >>= 1
        octave += 1
    upper = octave < 31 and (scaled * scaled) >> (2 * octave) >= 2
    return min(2 * octave + (1 if upper else 0), BUCKETS - 1)


@inlined
def level(symbol: int) -> int:
    """Magnitude, all of 3 and more being one."""
    return min(abs(symbol), 3)


@inlined
def side(symbol: int) -> int:
    """0 for zero, 1 for positive, 2 for negative."""
    return 0 if symbol == 0 else (1 if symbol > 0 else 2)


@inlined
def at(symbols: np.ndarray, row: int, column: int) -> int:
    """A symbol that was coded before, or zero outside the plane."""
    return symbols[row, column] if row >= 0 and column >= 0 and column < symbols.shape[1] else 0


@inlined
def find_contexts(
    symbols: np.ndarray, row: int, column: int, stride: int, kernel: int, producers: np.ndarray, group: int,
    row_sum: int, column_sum: int, total: int, count: int, contexts: np.ndarray, signs: np.ndarray,
) -> None:  # fmt: skip
    """Write down which contexts the symbol at a place has: for its magnitude, and for its sign."""
    left, left2 = at(symbols, row, column - 1), at(symbols, row, column - 2)
    up, up2, up3 = at(symbols, row - 1, column), at(symbols, row - 2, column), at(symbols, row - 3, column)
    up_left, up_right = at(symbols, row - 1, column - 1), at(symbols, row - 1, column + 1)
    back, back2 = at(symbols, row, column - stride), at(symbols, row, column - 2 * stride)
    back_left = at(symbols, row, column - stride - 1)
    back_right = at(symbols, row, column - stride + 1) if stride > 1 else 0
    near = 2 * (abs(left) + abs(back) + abs(up))
    near += abs(left2) + abs(back_left) + abs(back2) + abs(up2) + abs(up_left) + abs(up_right)
    mean = (16 * total + 16) // (count + 1)
    of_row = bucket_of(16 * row_sum + 2 * mean, 16 * column + 32)
    of_column = bucket_of(16 * column_sum + mean, 16 * row + 16)
    of_near = bucket_of(16 * near + 2 * mean, 13 * 16 + 32)
    contexts[0] = bucket_of(4 * total + 2, 4 * count + 4)
    together = 8 * near + 128 * (row_sum + 1) // (column + 2) + 128 * (column_sum + 1) // (row + 2)
    contexts[TOGETHER] = bucket_of(together, 13 * 8 + 256)
    contexts[2] = of_row
    contexts[3] = of_column
    contexts[4] = of_near
    contexts[5] = level(left) * 64 + level(up) * 16 + level(back) * 4 + level(back2)
    contexts[6] = (of_row >> 1) * 16 + (of_column >> 1)
    contexts[7] = (of_row >> 1) * 16 + (of_near >> 1)
    contexts[8] = level(up) * 64 + level(up2) * 16 + level(up3) * 4 + level(left)
    if kernel > 1:
        contexts[9] = min(column % kernel, 511)
    elif symbols.shape[1] <= 64:
        contexts[9] = column
    else:
        contexts[9] = 600 + (producers[column // group] if group > 0 else of_column)
    signs[0] = 0
    signs[1] = side(left) * 9 + side(back) * 3 + side(up)
    signs[2] = side(back) * 27 + side(back_right) * 9 + side(back_left) * 3 + side(left)
    signs[3] = min(max(left + back + back_right + back_left + 4, 0), 8)
    signs[4] = side(back)
    signs[5] = side(left) * 3 + side(up)
    signs[6] = side(up) * 3 + side(up_left)
    signs[7] = contexts[9]
    signs[8] = min(max(up + up2 + up3 + 4, 0), 8)
    signs[9] = side(up) * 9 + side(up_left) * 3 + side(left)


@inlined
def find_starts(contexts: np.ndarray, starts: np.ndarray) -> None:
    """Write down where the slots of each context begin: they are the same for all decisions of a symbol."""
    for place in range(SIZED):
        starts[place] = (place * BUCKETS + contexts[place]) * NODES
    for place in range(SIZED, CONTEXTS):
        starts[place] = SIZED_SLOTS + ((place - SIZED) * PATTERN_SIZE + contexts[place]) * PATTERN_NODES


@inlined
def find_slots(node: int, negative: bool, starts: np.ndarray, signs: np.ndarray, slots: np.ndarray) -> int:
    """Write down the slots of a decision; return how many of its contexts have one."""
    if node == SIGN:
        for place in range(CONTEXTS):
            slots[place] = SIGN_SLOTS_BEGIN + place * SIGN_SIZE + signs[place]
        return CONTEXTS
    used = CONTEXTS if node < PATTERN_NODES else (SIZED if node < MANTISSA else FEWER)
    for place in range(used):
        slots[place] = starts[place] + node
    if negative:
        slots[0] += SIGN_SLOTS_BEGIN + SIGN_SLOTS
    return used


@inlined
def begin_slots(node: int, slots: np.ndarray, probability: np.ndarray, seen: np.ndarray) -> None:
    """Give slots of patterns that were never asked what is known without them."""
    base = probability[slots[0 if node == SIGN else TOGETHER]]
    for place in range(1 if node == SIGN else SIZED, CONTEXTS):
        slot = slots[place]
        if seen[slot] == 0:
            seen[slot] = 1
            probability[slot] = base


@compiled
def code_symbols(
    symbols, stride, kernel, producers, group, coder, buffer, probability, seen, weights, asked, squash, stretch,
    rates, prices, encoding,
):  # fmt: skip
    """Run :func:`code_plane`; return the cost, or FULL."""
    rows, columns = symbols.shape
    contexts, signs = np.zeros(CONTEXTS, dtype=np.int64), np.zeros(CONTEXTS, dtype=np.int64)
    starts = np.zeros(CONTEXTS, dtype=np.int64)
    slots, inputs = np.zeros(CONTEXTS, dtype=np.int64), np.zeros(CONTEXTS, dtype=np.int64)
    column_sums = np.zeros(columns, dtype=np.int64)
    total, count, cost = 0, 0, 0
    for row in range(rows):
        row_sum = 0
        for column in range(columns):
            if encoding and np.int64(coder[POSITION]) + ROOM > buffer.size:
                return FULL
            find_contexts(
                symbols, row, column, stride, kernel, producers, group, row_sum, column_sums[column], total, count,
                contexts, signs,
            )  # fmt: skip
            find_starts(contexts, starts)
            symbol = np.int64(symbols[row, column]) if encoding else np.int64(0)
            magnitude = abs(symbol)
            reached = 0
            while magnitude >> (reached + 1):
                reached += 1
            node, exponent, prefix, left = ZERO, 0, 0, 0
            negative = False
            while True:
                bit = 0
                if encoding:
                    if node == ZERO:
                        bit = 1 if magnitude else 0
                    elif node == SIGN:
                        bit = 1 if symbol < 0 else 0
                    elif node < MANTISSA:
                        bit = 1 if reached > exponent else 0
                    else:
                        bit = (magnitude >> (left - 1)) & 1
                used = find_slots(node, negative, starts, signs, slots)
                if used == CONTEXTS:
                    begin_slots(node, slots, probability, seen)
                mixed = np.int64(0)
                for place in range(used):
                    inputs[place] = stretch[probability[slots[place]]]
                    mixed += weights[node, place] * inputs[place]
                mixed = min(max(mixed >> 16, -LARGEST_LOGIT), LARGEST_LOGIT)
                one = min(max(squash[mixed + LARGEST_LOGIT], 2), 65534)
                bit = code_bit(coder, buffer, one, bit, encoding)
                cost += prices[(one if bit else 65536 - one) >> 4]
                missed = (65536 if bit else 0) - one
                rate = SLOWEST
                if asked[node] < SETTLED:
                    asked[node] += 1
                    rate = FASTEST * 16 // (16 + asked[node])
                for place in range(used):
                    # Weights stay within int32: what is added vanishes once the mix is sure.
                    weight = weights[node, place] + ((missed * inputs[place] * rate + 131072) >> 18)
                    weights[node, place] = min(max(weight, -(1 << 24)), 1 << 24)
                    slot = slots[place]
                    past = seen[slot]
                    chance = np.int64(probability[slot])
                    probability[slot] = chance + (((65535 if bit else 0) - chance) * rates[past] >> 16)
                    if past < MOST_SEEN:
                        seen[slot] = past + 1
                if node == ZERO:
                    if not bit:
                        break
                    node = SIGN
                elif node == SIGN:
                    negative = bit == 1
                    node = EXPONENT
                elif node < MANTISSA:
                    if bit and exponent < MOST_EXPONENT:
                        exponent += 1
                    if not bit or exponent == MOST_EXPONENT:
                        prefix, left = 1, exponent
                        if exponent == 0 or exponent > MODELLED_EXPONENT:
                            break
                        node = MANTISSA + (1 << exponent)
                        continue
                    node = EXPONENT + exponent
                else:
                    prefix = 2 * prefix + bit
                    left -= 1
                    if left == 0:
                        break
                    node = MANTISSA + (1 << exponent) + prefix - 1
            if node != ZERO:
                for _ in range(left):
                    left -= 1
                    below = (magnitude >> left) & 1 if encoding else 0
                    prefix = 2 * prefix + code_bit(coder, buffer, 32768, below, encoding)
                    cost += 65536
                if not encoding:
                    symbols[row, column] = -prefix if negative else prefix
            size = abs(np.int64(symbols[row, column]))
            row_sum += size
            column_sums[column] += size
            total += size
            count += 1
    return cost
