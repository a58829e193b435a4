"""Tables of the logistic function and of prior probabilities, in integers alone: the same on every machine.

A probability is a number of 1 to 65,535 out of 65,536; its logit is a multiple of 1/256. Floating point would do the
same work, and round differently from one C library to the next: a file would then decode to noise.
"""

from __future__ import annotations

from functools import cache
from math import isqrt

import numpy as np

ONE = 1 << 64
PROBABILITY_BITS = 16
WHOLE = 1 << PROBABILITY_BITS
LARGEST_LOGIT = 2840  # 256 · ln 65,535: a probability beside 0 or 1
MOST_SEEN = 255

# Of a symbol: zero or not, negative or not, which power of two its magnitude reaches, and the bits below that.
ZERO, SIGN, EXPONENT = 0, 1, 2
MOST_EXPONENT = 24
MANTISSA = EXPONENT + MOST_EXPONENT + 1
MODELLED_EXPONENT = 7  # of larger magnitudes only the upper bits are modelled
NODES = MANTISSA + (1 << (MODELLED_EXPONENT + 1))
BUCKETS = 32  # half octaves of an expected magnitude, the lowest being 2⁻⁹


@cache
def probabilities() -> np.ndarray:
    """Probabilities of the logits −LARGEST_LOGIT to LARGEST_LOGIT, int64 ``(5681,)``."""
    step, term, count = 0, ONE, 0
    while term:  # the series of e^(1/256)
        step, count = step + term, count + 1
        term //= 256 * count
    upper, power = [], ONE
    for _ in range(LARGEST_LOGIT + 1):
        upper.append(min(WHOLE * power // (power + ONE), WHOLE - 1))
        power = power * step >> 64
    lower = [WHOLE - probability for probability in upper[:0:-1]]
    return np.array(lower + upper, dtype=np.int64)


@cache
def logits() -> np.ndarray:
    """The nearest logit from below of every probability, int16 ``(65536,)``."""
    found = np.searchsorted(probabilities(), np.arange(WHOLE)) - LARGEST_LOGIT
    return np.clip(found, -LARGEST_LOGIT, LARGEST_LOGIT).astype(np.int16)


@cache
def rates() -> np.ndarray:
    """How far a probability moves towards the n-th bit seen, out of 65,536; int64 ``(MOST_SEEN + 1,)``."""
    return np.array([5 * WHOLE // (5 * count + 8) for count in range(MOST_SEEN + 1)], dtype=np.int64)


@cache
def priors() -> np.ndarray:
    """Probability of every node where magnitudes of some size are expected, int64 ``(BUCKETS, NODES)``.

    Symbols are taken to follow a two-sided geometric distribution, P(x) ∝ θ^|x|; of its mean magnitude
    μ = 2θ / (1 − θ²) follows θ = (√(1 + μ²) − 1) / μ.
    """
    table = np.full((BUCKETS, NODES), WHOLE // 2, dtype=np.int64)
    one = 1 << 32
    for bucket in range(BUCKETS):
        square = one * one << bucket >> 18
        theta = (isqrt(one * one + square) - one) * one // isqrt(square)
        table[bucket, ZERO] = bounded(2 * theta * WHOLE // (one + theta))
        powers = [theta]  # θ to the powers of two
        for _ in range(MOST_EXPONENT):
            powers.append(powers[-1] * powers[-1] // one)
        for exponent in range(MOST_EXPONENT + 1):
            table[bucket, EXPONENT + exponent] = bounded(powers[exponent] * WHOLE // one)
        for exponent in range(1, MODELLED_EXPONENT + 1):
            for prefix in range(1, 1 << exponent):
                below = powers[exponent - prefix.bit_length()]  # θ to half of what this bit decides between
                table[bucket, MANTISSA + mantissa_node(exponent, prefix)] = bounded(below * WHOLE // (one + below))
    return table


def mantissa_node(exponent: int, prefix: int) -> int:
    """Number of the decision that follows the bits ``prefix`` (its leading one included) of a magnitude."""
    return (1 << exponent) + prefix - 1


def bounded(probability: int) -> int:
    """Keep a prior away from certainty."""
    return min(max(probability, 16), WHOLE - 16)


@cache
def prices() -> np.ndarray:
    """What a bit of a probability costs, in 65,536ths of a bit; by the upper 12 bits. Reported, never coded by."""
    middles = (np.arange(4096) + 0.5) / 4096
    return np.rint(-np.log2(middles) * WHOLE).astype(np.int64)
