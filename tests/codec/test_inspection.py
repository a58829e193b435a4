"""What is told of a coded file's tensors, counted as their pieces come."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from compression_gate.codec import container
from compression_gate.codec.coded_tensors import encode_tensors
from compression_gate.codec.inspection import inspected

TENSORS = {
    "weights": torch.randn(600, 300, generator=torch.Generator().manual_seed(0)),
    "few": torch.arange(60_000).reshape(200, 300) % 7 * 0.5,
    "zeros": torch.zeros(5, 3),
    "empty": torch.zeros(0, 4),
}


@pytest.mark.parametrize("fast", [False, True], ids=["small", "fast"])
def test_what_is_counted_in_pieces_is_that_of_the_whole(tmp_path, monkeypatch, fast):
    monkeypatch.setattr(container, "SEGMENT_NUMBERS", 1 << 14)
    save_file(TENSORS, tmp_path / "x.safetensors")
    size = encode_tensors(tmp_path / "x.safetensors", tmp_path / "x.cgz", fast=fast)
    found = inspected(tmp_path / "x.cgz")
    assert found.head_bytes + sum(one.coded_bytes for one in found.tensors) == pytest.approx(size)
    assert {one.name for one in found.tensors} == set(TENSORS)
    for one in found.tensors:
        tensor = TENSORS[one.name]
        counts = np.unique(tensor.numpy(), return_counts=True)[1]
        shares = counts / counts.sum()
        assert (one.shape, one.numbers) == (tuple(tensor.shape), tensor.numel())
        assert one.zeros == int((tensor == 0).sum())
        assert one.entropy_bits == pytest.approx(-(shares * np.log2(shares)).sum())
    assert {one.name: one.forms for one in found.tensors}["weights"] == ("floats",)


def test_a_tensor_that_a_few_bytes_ask_for_is_never_held(tmp_path):
    save_file({"zeros": torch.zeros(1 << 25)}, tmp_path / "x.safetensors")
    encode_tensors(tmp_path / "x.safetensors", tmp_path / "x.cgz")
    tracemalloc.start()
    (found,) = inspected(tmp_path / "x.cgz").tensors
    assert tracemalloc.get_traced_memory()[1] < 1 << 26
    tracemalloc.stop()
    assert found.zeros == 1 << 25
