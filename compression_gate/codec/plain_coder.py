"""Symbols whose neighbours say nothing about them: each decision by how often it went which way, and no more.

The decisions are those of :mod:`symbol_model`. Where symbols are independent of each other, mixing ten contexts costs
one or two percent over the shares of the values; counting costs what any code pays that has to learn them.

Source: R. E. Krichevsky and V. K. Trofimov, The performance of universal encoding, IEEE Transactions on Information
Theory 27(2), 1981.
"""

from __future__ import annotations

import numpy as np

from compression_gate.codec import logistic
from compression_gate.codec.compiling import compiled, inlined
from compression_gate.codec.logistic import EXPONENT, MANTISSA, MODELLED_EXPONENT, MOST_EXPONENT, NODES, SIGN, ZERO
from compression_gate.codec.range_coder import FULL, POSITION, code_bit
from compression_gate.codec.symbol_model import ROOM


def code_plane(coder: np.ndarray, buffer: np.ndarray, symbols: np.ndarray, *, encoding: bool) -> tuple[bool, int]:
    """Encode symbols int32 ``(R, C)``, or fill them in; what is learned is of this plane alone.

    Args:
        coder, buffer: see :mod:`range_coder`.

    Returns:
        Whether the buffer had room, and what it cost [bits / 65,536].
    """
    cost = code_symbols(symbols.reshape(-1), coder, buffer, logistic.prices(), encoding)
    return cost != FULL, int(cost)


@inlined
def decide(
    node: int, bit: int, counts: np.ndarray, coder: np.ndarray, buffer: np.ndarray, encoding: bool
) -> tuple[int, int]:
    """Code one decision by the counts of what was decided before; return it, and where its price stands."""
    one = ((2 * counts[node, 1] + 1) << 15) // (counts[node, 0] + counts[node, 1] + 1)
    one = min(max(one, 1), 65535)
    bit = code_bit(coder, buffer, one, bit, encoding)
    counts[node, bit] += 1
    return bit, (one if bit else 65536 - one) >> 4


@compiled
def code_symbols(symbols: np.ndarray, coder: np.ndarray, buffer: np.ndarray, prices: np.ndarray, encoding: bool) -> int:
    """Run :func:`code_plane`; return the cost, or FULL."""
    counts = np.zeros((2 * NODES, 2), dtype=np.int64)  # magnitudes of negative ones behind the others
    cost = 0
    for place in range(symbols.size):
        if encoding and np.int64(coder[POSITION]) + ROOM > buffer.size:
            return FULL
        symbol = np.int64(symbols[place]) if encoding else np.int64(0)
        magnitude = abs(symbol)
        bit, price = decide(ZERO, 1 if magnitude else 0, counts, coder, buffer, encoding)
        cost += prices[price]
        if not bit:
            continue
        negative, price = decide(SIGN, 1 if symbol < 0 else 0, counts, coder, buffer, encoding)
        cost += prices[price]
        own = NODES if negative else 0
        exponent = 0
        while exponent < MOST_EXPONENT:
            more = 1 if magnitude >> (exponent + 1) else 0
            more, price = decide(own + EXPONENT + exponent, more, counts, coder, buffer, encoding)
            cost += prices[price]
            if not more:
                break
            exponent += 1
        prefix = 1
        for left in range(exponent - 1, -1, -1):
            below = 1 if (magnitude >> left) & 1 else 0
            if exponent <= MODELLED_EXPONENT:
                node = own + MANTISSA + (1 << exponent) + prefix - 1
                below, price = decide(node, below, counts, coder, buffer, encoding)
                cost += prices[price]
            else:
                below = code_bit(coder, buffer, 32768, below, encoding)
                cost += 65536
            prefix = 2 * prefix + below
        if not encoding:
            symbols[place] = -prefix if negative else prefix
    return cost
