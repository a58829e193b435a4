"""A model written down and read back; and files that nobody should believe."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from compression_gate.codec.coded_model import decode_model, encode_model
from compression_gate.errors import CompressionError
from compression_gate.modules.quantized import QuantizedLinear
from compression_gate.modules.saved_model import load_model, save_model
from compression_gate.modules.structure import STRUCTURE_FILE, Structure, describe, rebuilt
from compression_gate.modules.surgery import state_digest, ties


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.place = nn.Parameter(torch.ones(1, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, inputs):
        features = self.features(inputs).mean((2, 3)) * self.place
        return self.head(self.attention(features[:, None], features[:, None], features[:, None])[0][:, 0])


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


def round_trip(model, factory, folder):
    save_model(model, factory, folder)
    return load_model(factory, folder)


def assert_same(model, other):
    inputs = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(inputs), other(inputs))
    assert state_digest(model) == state_digest(other)


def test_an_unchanged_model_has_an_empty_structure(net, tmp_path):
    structure = save_model(net, Net(), tmp_path)
    assert structure == Structure()
    assert_same(net, load_model(Net(), tmp_path))


def with_a_class_of_its_own():
    """A factory that defines a class inside itself, as notebooks do: another one each time it is called."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, inputs):
            return self.inner(inputs).relu()

    return nn.Sequential(Block(), nn.Linear(8, 2)).eval()


def test_a_class_that_the_factory_defines_inside_itself_is_one_class(tmp_path):
    model = with_a_class_of_its_own()
    assert describe(model, with_a_class_of_its_own()) == Structure()
    model[0].inner = nn.Linear(8, 8, bias=False)
    assert list(describe(model, with_a_class_of_its_own()).layers) == ["0.inner"]
    assert_same(model, round_trip(model, with_a_class_of_its_own(), tmp_path))
    model[0] = type(Custom.__name__, (nn.Module,), {})()
    with pytest.raises(CompressionError, match="0: cannot be saved: Custom in place of Block"):
        describe(model, with_a_class_of_its_own())


def test_only_what_differs_is_written(net):
    net.head = nn.Sequential(nn.Linear(8, 2, bias=False), nn.Linear(2, 4))
    structure = describe(net, Net())
    assert list(structure.layers) == ["head", "head.0", "head.1"]
    assert structure.layers["head.0"].arguments == {"in_features": 8, "out_features": 2, "bias": False}


REPLACEMENTS = {
    "one_by_two": ("head", lambda: nn.Sequential(nn.Linear(8, 2), nn.Linear(2, 4))),
    "norm_folded_away": ("features.1", nn.Identity),
    "other_sizes": (
        "features",
        lambda: nn.Sequential(nn.Conv2d(1, 3, 5, 2, 1, bias=False), nn.BatchNorm2d(3), nn.Conv2d(3, 8, 1)),
    ),
    "integers": ("head", lambda: QuantizedLinear(8, 4, bias=True, bits=4)),
    "nested": ("features.2", lambda: nn.Sequential(nn.Sequential(nn.PReLU(8)), nn.GroupNorm(2, 8))),
    "no_bias": ("head", lambda: nn.Linear(8, 4, bias=False)),
}


@pytest.mark.parametrize("case", REPLACEMENTS)
def test_replaced_layers_come_back(net, tmp_path, case):
    name, build = REPLACEMENTS[case]
    parent, _, last = name.rpartition(".")
    setattr(net.get_submodule(parent), last, build().eval())
    assert_same(net, round_trip(net, Net(), tmp_path))


def test_sizes_of_attention_and_free_parameters_come_back(net, tmp_path):
    smaller = Net()
    smaller.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    smaller.attention, smaller.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 4)
    smaller.place = nn.Parameter(torch.randn(1, 4))
    structure = save_model(smaller.eval(), net, tmp_path)
    assert structure.attributes["attention"] == {"head_dim": 2, "embed_dim": 4, "kdim": 4, "vdim": 4}
    assert structure.shapes["place"] == (1, 4)
    assert_same(smaller, load_model(net, tmp_path))


@pytest.mark.parametrize("tied", [True, False])
def test_ties_made_and_ties_broken_come_back(tmp_path, tied):
    def build(together):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        if together:
            model[1].weight = model[0].weight
        return model

    loaded = round_trip(build(tied), build(not tied), tmp_path)
    assert bool(ties(loaded)) == tied


def test_a_module_under_two_names_comes_back_as_one_weight(tmp_path):
    def build(width):
        block = nn.Linear(width, width)
        return nn.ModuleDict({"a": block, "b": block})

    loaded = round_trip(build(3), build(4), tmp_path)
    assert loaded["a"].weight is loaded["b"].weight


def repeated(layer, times=10):
    """A model that calls one module many times, under a name each."""
    return nn.Sequential(*[layer] * times).eval()


ONE_MODULE = {
    "integers": (nn.Linear(4, 4), lambda: QuantizedLinear(4, 4, bias=True, bits=4)),
    "norm": (nn.BatchNorm1d(4), lambda: nn.BatchNorm1d(3)),
    "inside": (nn.Linear(4, 4), lambda: nn.Sequential(QuantizedLinear(4, 4, bias=True, bits=4), nn.BatchNorm1d(4))),
}


@pytest.mark.parametrize("case", ONE_MODULE)
def test_a_module_with_buffers_under_several_names_comes_back_as_one(tmp_path, case):
    before, build = ONE_MODULE[case]
    model = repeated(build())
    loaded = round_trip(model, repeated(before), tmp_path)
    assert all(module is loaded[0] for module in loaded)
    assert state_digest(loaded) == state_digest(model)
    encode_model(model, repeated(before), tmp_path / "model.cgz")
    decoded = decode_model(repeated(before), tmp_path / "model.cgz")
    assert all(module is decoded[0] for module in decoded)
    assert state_digest(decoded) == state_digest(model)


def test_two_layers_for_one_of_the_factorys_are_refused_where_a_file_would_mix_them_up():
    factory = repeated(nn.Linear(4, 4), 2)
    layers = [QuantizedLinear(4, 4, bias=True, bits=4) for _ in range(2)]
    with pytest.raises(CompressionError, match=r"1\.weight_integers: cannot be saved: .* 0\.weight_integers"):
        describe(nn.Sequential(*layers), factory)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_layers_of_other_sizes_keep_the_number_type(tmp_path, kind):
    def build(width):
        return nn.Sequential(nn.Linear(4, width), nn.Linear(width, 2)).to(kind)

    model = build(3)
    model[1] = nn.Sequential(nn.Linear(3, 1), nn.Linear(1, 2)).to(kind)
    loaded = round_trip(model.eval(), build(8), tmp_path)
    assert state_digest(loaded) == state_digest(model)


def test_the_factorys_model_stays_as_it_is(net, tmp_path):
    factory = Net()
    before = state_digest(factory)
    net.head = nn.Linear(8, 4, bias=False)
    round_trip(net, factory, tmp_path)
    assert state_digest(factory) == before
    assert factory.head.bias is not None


class Custom(nn.Module):
    def forward(self, inputs):
        return inputs


def test_a_module_outside_the_list_is_named_and_nothing_is_written(net, tmp_path):
    net.features[2] = Custom()
    with pytest.raises(
        CompressionError, match=r"features\.2: cannot be saved: Custom in place of ReLU: expected one of"
    ):
        save_model(net, Net(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tensor_that_structure_cannot_say_is_named(net, tmp_path):
    net.register_buffer("extra", torch.zeros(3))
    with pytest.raises(CompressionError, match="extra: cannot be saved"):
        save_model(net, Net(), tmp_path)


def test_another_number_type_is_named(net, tmp_path):
    net.head.double()
    with pytest.raises(CompressionError, match=r"head\.weight: cannot be saved: .*float64.*float32"):
        save_model(net, Net(), tmp_path)


LINEAR = {"in_features": 8, "out_features": 4, "bias": True}
HOSTILE = {  # what is put into structure.json, what the message says
    "unknown type": (
        {"layers": {"head": {"type": "os.system", "arguments": {}}}},
        "head.type: expected one of.*'os.system'",
    ),
    "no such module": ({"layers": {"tail": {"type": "Linear", "arguments": LINEAR}}}, "name of a module.*'tail'"),
    "outside": (
        {"layers": {"__class__.x": {"type": "Linear", "arguments": LINEAR}}},
        "name of a module.*'__class__.x'",
    ),
    "the model itself": ({"layers": {"": {"type": "Linear", "arguments": LINEAR}}}, "name of a module"),
    "absurd size": (
        {"layers": {"head": {"type": "Linear", "arguments": LINEAR | {"in_features": 2**31 - 1}}}},
        "at most",
    ),
    "more than an integer holds": (
        {"layers": {"head": {"type": "Linear", "arguments": LINEAR | {"in_features": 10**30}}}},
        "layers",
    ),
    "negative size": (
        {"layers": {"head": {"type": "Linear", "arguments": LINEAR | {"in_features": -8}}}},
        "what Linear takes",
    ),
    "endless layers": (
        {"layers": {"head": {"type": "Sequential", "arguments": {"length": 10**9}}}},
        "length: expected 0 to",
    ),
    "unknown argument": ({"layers": {"head": {"type": "Linear", "arguments": LINEAR | {"device": "cuda"}}}}, "takes"),
    "missing argument": ({"layers": {"head": {"type": "Linear", "arguments": {}}}}, "what Linear takes"),
    "no groups": (
        {
            "layers": {
                "head": {
                    "type": "QuantizedConv2d",
                    "arguments": {
                        "in_channels": 1,
                        "out_channels": 1,
                        "kernel_size": [1, 1],
                        "stride": [1, 1],
                        "padding": [0, 0],
                        "dilation": [1, 1],
                        "groups": 0,
                        "bias": True,
                        "bits": 8,
                    },
                }
            }
        },
        "what QuantizedConv2d takes",
    ),
    "extra field": ({"code": "import os"}, "code: Extra inputs"),
    "newer": ({"schema": 2}, "schema"),
    "unlisted attribute": ({"attributes": {"attention": {"forward": 1}}}, "an integer attribute"),
    "attribute of nobody": ({"attributes": {"tail": {"num_heads": 1}}}, "name of a module"),
    "shape of nothing": ({"shapes": {"head.nothing": [1]}}, "name of a tensor"),
    "absurd shape": ({"shapes": {"place": [2**20, 2**20, 2**20]}}, "at most"),
    "negative shape": ({"shapes": {"place": [-1, -1]}}, "at most"),
    "ties of strangers": ({"ties": [["head.weight", "place"]]}, "parameters of one shape"),
    "empty tie": ({"ties": [[]]}, None),
    "not json": ("{", "damaged"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_structure_that_nobody_should_believe_is_refused_by_name(net, tmp_path, case):
    content, message = HOSTILE[case]
    save_model(net, Net(), tmp_path)
    text = content if isinstance(content, str) else json.dumps({"schema": 1} | content)
    (tmp_path / STRUCTURE_FILE).write_text(text)
    if message is None:
        assert_same(net, load_model(Net(), tmp_path))
        return
    with pytest.raises(CompressionError, match=rf"structure\.json.*{message}"):
        load_model(Net(), tmp_path)


def test_nothing_is_allocated_before_sizes_are_checked(net):
    layers = {"head": {"type": "Linear", "arguments": LINEAR | {"out_features": 2**31 - 1, "in_features": 2**31 - 1}}}
    structure = Structure.model_validate({"schema": 1, "layers": layers})
    with pytest.raises(CompressionError, match=r"at most 1000 numbers|what Linear takes"):
        rebuilt(copy.deepcopy(net), structure, largest=1000)
