"""The fuzzer's inputs, without the fuzzer: it is no dependency."""

from __future__ import annotations

import importlib.util
import random
import warnings
from pathlib import Path

import numpy as np
import pytest

from compression_gate.codec import container, streams

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_codec.py"


@pytest.fixture
def decoder(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("fuzz_codec", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script.tempfile, "mkdtemp", lambda **_: str(tmp_path))
    monkeypatch.setattr(container, "LARGE_BYTES", script.LARGE_BYTES)
    monkeypatch.setattr(streams, "LARGE_PLANE", script.LARGE_PLANE)
    with warnings.catch_warnings(), np.errstate():
        yield script.Decoder(tmp_path)


def test_seeds_decode_and_what_is_made_of_them_does_or_is_refused(decoder):
    source, seeds = random.Random(0), decoder.seeds()
    refused = 0
    for seed in seeds:
        assert decoder.one(seed), seed.hex()
        for _ in range(3):
            changed = bytearray(seed)
            for _ in range(source.randrange(1, 4)):
                changed[source.randrange(1, len(changed))] ^= 1 << source.randrange(8)
            refused += not decoder.one(bytes(changed))
    assert {seed[0] for seed in seeds} == {0, 1, 2, 3, 4, 5, 7}, "every kind of input has a seed"
    assert refused
