"""Layers that name themselves, and types of one's own that join them."""

from __future__ import annotations

import json

import pytest
from butterfly import Butterfly, registered_butterfly
from torch import nn

from compression_gate.errors import CompressionError
from compression_gate.modules.attention import HeadAttention
from compression_gate.modules.layer_types import LAYER_TYPES, layer_of, register_layer
from compression_gate.modules.quantized import QuantizedLinear


def test_every_listed_type_rebuilds_itself_from_its_own_arguments():
    samples = [
        *(nn.Linear(2, 3), nn.Bilinear(2, 3, 4, bias=False), nn.Embedding(5, 2, padding_idx=1), nn.Identity()),
        *(nn.LSTM(2, 3, 2, bidirectional=True), nn.GRU(2, 3, bias=False), nn.PReLU(3)),
        *(
            nn.Conv1d(2, 4, 3, groups=2),
            nn.Conv2d(2, 4, (3, 1), 2, "valid"),
            nn.Conv3d(1, 2, 1, padding_mode="circular"),
        ),
        *(nn.ConvTranspose1d(2, 4, 3, 2, output_padding=1), nn.ConvTranspose2d(2, 4, 3), nn.ConvTranspose3d(1, 1, 1)),
        *(nn.BatchNorm1d(3, affine=False), nn.BatchNorm2d(3, momentum=None), nn.BatchNorm3d(2)),
        *(
            nn.LayerNorm((2, 3), bias=False),
            nn.GroupNorm(2, 4),
            nn.InstanceNorm1d(2),
            nn.InstanceNorm2d(2, affine=True),
        ),
        *(nn.InstanceNorm3d(2), nn.Sequential(nn.ReLU())),
        HeadAttention(embed_dim=8, num_heads=3, head_dim=2, bias=False, batch_first=True),
        QuantizedLinear(2, 3, bias=False, bits=8, granularity="per_tensor"),
    ]
    for sample in samples:
        layer = layer_of(sample)
        again = LAYER_TYPES[layer.type](**json.loads(layer.model_dump_json())["arguments"])
        assert layer_of(again) == layer
        if not isinstance(sample, nn.Sequential):
            assert {k: v.shape for k, v in again.state_dict().items()} == {
                k: v.shape for k, v in sample.state_dict().items()
            }
    named = {layer_of(sample).type for sample in samples}
    assert named >= {name for name in LAYER_TYPES if not name.startswith("Quantized")}  # test_quantized has the others


@pytest.fixture
def butterfly():
    with registered_butterfly():
        yield


class Net(nn.Module):
    """A type that is nobody's yet."""

    def __init__(self):
        super().__init__()


REFUSED_NAMES = {  # a name, a class, its arguments -> why not
    "no dot": ("Butterfly", Butterfly, ("width", "kind", "scale"), "a name with a dot in it, of at most 63 bytes"),
    "too long": ("own." + "ä" * 30, Butterfly, ("width", "kind", "scale"), "a name with a dot in it"),
    "another name": ("own.Moth", Butterfly, ("width", "kind", "scale"), r"got that of .*Butterfly \(own\.Butterfly\)"),
    "a taken name": ("own.Butterfly", Net, (), r"expected a name for Net alone, got that of .*Butterfly"),
    "a layer of torch's": ("own.Linear", nn.Linear, ("in_features",), r"got that of Linear \(Linear\)"),
    "other arguments": ("own.Net", Net, ("width",), "arguments of Net: expected none, got width"),
}


@pytest.mark.parametrize("case", REFUSED_NAMES)
def test_a_registration_that_could_not_be_read_back_is_refused(case, butterfly):
    name, kind, arguments, complaint = REFUSED_NAMES[case]
    before = dict(LAYER_TYPES)
    with pytest.raises(CompressionError, match=complaint):
        register_layer(name, kind, arguments)
    assert before == LAYER_TYPES


def test_registering_twice_is_registering_once(butterfly):
    register_layer("own.Butterfly", Butterfly, ("width", "kind", "scale"))
    assert LAYER_TYPES["own.Butterfly"] is Butterfly
