"""Tables in integers: what they approximate, and that they stay as they are."""

from __future__ import annotations

import zlib
from math import exp, log2, sqrt

import numpy as np
import pytest

from compression_gate.codec import logistic
from compression_gate.codec.logistic import (
    BUCKETS,
    EXPONENT,
    LARGEST_LOGIT,
    MANTISSA,
    MODELLED_EXPONENT,
    MOST_EXPONENT,
    NODES,
    WHOLE,
    ZERO,
)

# Files of schema 1 were coded with exactly these: another table decodes them to noise.
SCHEMA_1 = {"probabilities": 0xB1B07F8F, "logits": 0x52EDA3E3, "rates": 0x0A21B34C, "priors": 0x81994804}


@pytest.mark.parametrize("table", SCHEMA_1)
def test_tables_are_those_of_schema_1(table):
    assert zlib.crc32(getattr(logistic, table)().astype("<i8").tobytes()) == SCHEMA_1[table]


def test_probabilities_are_the_logistic_function():
    wanted = [WHOLE / (1 + exp(-logit / 256)) for logit in range(-LARGEST_LOGIT, LARGEST_LOGIT + 1)]
    assert np.abs(logistic.probabilities() - wanted).max() <= 1
    assert (np.diff(logistic.probabilities()) >= 0).all()
    assert logistic.probabilities()[[0, LARGEST_LOGIT, -1]].tolist() == [1, WHOLE // 2, WHOLE - 1]


def test_logits_are_its_inverse():
    back = logistic.probabilities()[logistic.logits()[1:].astype(np.int64) + LARGEST_LOGIT]
    assert (back >= np.arange(1, WHOLE)).all()
    assert (
        logistic.probabilities()[logistic.logits()[2:].astype(np.int64) + LARGEST_LOGIT - 1] < np.arange(2, WHOLE)
    ).all()


def test_rates_fall_from_a_large_step_to_a_small_one():
    assert logistic.rates()[0] == 5 * WHOLE // 8
    assert (np.diff(logistic.rates()) < 0).all()
    assert abs(logistic.rates()[-1] / WHOLE - 1 / 256.6) < 1e-4


def chance(bucket, low, high):
    """P(low ≤ magnitude < high) of a two-sided geometric distribution of the bucket's mean magnitude."""
    mean = sqrt(2.0 ** (bucket - 18))
    theta = (sqrt(1 + mean * mean) - 1) / mean
    weight = [(1 if size == 0 else 2) * theta**size for size in range(1 << 14)]
    return sum(weight[low:high]) / sum(weight)


@pytest.mark.parametrize("bucket", range(8, 26, 3))
def test_priors_are_those_of_a_geometric_distribution(bucket):
    table = logistic.priors()[bucket]
    wanted = {ZERO: 1 - chance(bucket, 0, 1)}
    for exponent in range(4):
        wanted[EXPONENT + exponent] = chance(bucket, 2 << exponent, 1 << 14) / chance(bucket, 1 << exponent, 1 << 14)
    wanted[MANTISSA + logistic.mantissa_node(1, 1)] = chance(bucket, 3, 4) / chance(bucket, 2, 4)
    wanted[MANTISSA + logistic.mantissa_node(3, 3)] = chance(bucket, 14, 16) / chance(bucket, 12, 16)
    for node, one in wanted.items():
        assert abs(table[node] / WHOLE - one) < 0.003, node


def test_every_decision_has_a_node_of_its_own():
    nodes = [MANTISSA + logistic.mantissa_node(exponent, prefix)
             for exponent in range(1, MODELLED_EXPONENT + 1) for prefix in range(1, 1 << exponent)]  # fmt: skip
    assert len(set(nodes)) == len(nodes)
    assert min(nodes) > EXPONENT + MOST_EXPONENT
    assert max(nodes) < NODES
    assert logistic.priors().shape == (BUCKETS, NODES)


def test_prices_are_logarithms():
    for share in (1, 700, 2048, 4095):
        assert logistic.prices()[share] / WHOLE == pytest.approx(-log2((share + 0.5) / 4096), abs=1e-4)
