"""What differs from the factory's model, in bits; and bits that describe no model."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from butterfly import Butterfly, registered_butterfly
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compression_gate.codec.streams import MixedStream, code_whole
from compression_gate.codec.structure_code import (
    AT_MOST,
    LENGTH_BITS,
    MOST_INSIDE,
    NONE,
    REAL,
    SIZES,
    TYPE_BITS,
    TYPES,
    WHOLE,
    WORD,
    WORD_BITS,
    WORDS,
    code_structure,
    defaults_of,
    names_of,
)
from compression_gate.errors import CodecError
from compression_gate.modules.layer_types import LAYER_TYPES
from compression_gate.modules.structure import ATTRIBUTES, Structure, describe
from compression_gate.modules.surgery import state_digest, ties

LARGEST = 1 << 20


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.place = nn.Parameter(torch.ones(1, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.recurrent = nn.LSTM(8, 6, num_layers=2, batch_first=True)
        self.first, self.again = nn.Linear(8, 8), nn.Linear(8, 8)
        self.again.weight = self.first.weight
        self.head = nn.Linear(8, 4)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


def written(factory, structure):
    stream = MixedStream()
    code_structure(stream, factory, structure, LARGEST)
    return stream.finish()


def shapes(model):
    return {name: (tuple(value.shape), value.dtype) for name, value in model.state_dict().items()}


def assert_same(model, factory):
    structure = describe(model, factory)
    data = written(factory, structure)
    found, again = code_structure(MixedStream.reading(data), factory, None, LARGEST)
    assert found == structure
    assert shapes(again) == shapes(model)
    assert set(ties(again)) == set(ties(model))
    return len(data)


def test_a_model_that_is_as_its_factory_takes_a_byte(net):
    assert assert_same(net, Net()) <= 1


def prune_rows(net):
    net.first = nn.Linear(8, 5)
    net.again = nn.Linear(5, 8)


def split_head(net):
    net.head = nn.Sequential(nn.Linear(8, 2, bias=False), nn.Linear(2, 4))


def nest(net):
    net.head = nn.Sequential(nn.Sequential(nn.Linear(8, 2), nn.Identity()), nn.Linear(2, 4))


def fold_norm(net):
    net.features[1] = nn.Identity()


def change_words(net):
    net.features[0] = nn.Conv2d(1, 8, 3, padding="same", padding_mode="reflect")


def change_reals(net):
    net.features[1] = nn.BatchNorm2d(8, eps=1e-3, momentum=None)


def change_shapes(net):
    net.place = nn.Parameter(torch.ones(1, 3))


def narrow_recurrent(net):
    net.recurrent = nn.LSTM(8, 4, num_layers=2, batch_first=True)


def untie(net):
    net.again.weight = nn.Parameter(torch.ones(8, 8))


def tie_more(net):
    net.again.bias = net.first.bias


def change_attributes(net):
    net.attention.num_heads = 1


CHANGES = {  # a change -> bytes of its structure at most
    prune_rows: 7, split_head: 13, nest: 21, fold_norm: 3, change_words: 13, change_reals: 16, change_shapes: 5,
    narrow_recurrent: 6, untie: 2, tie_more: 8, change_attributes: 5,
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_takes_few_bytes(net, change):
    change(net)
    assert assert_same(net, Net()) <= CHANGES[change]


def test_the_factory_stays_as_it_is(net):
    before = state_digest(net)
    data = written(net, Structure())
    code_structure(MixedStream.reading(data), net, None, LARGEST)
    assert state_digest(net) == before


# Schema 1 writes places in these lists, and leaves out what is as a constructor's default: both stay as they are.
SCHEMA_1_TYPES = (
    "Linear Bilinear Embedding LSTM GRU Identity PReLU Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d "
    "ConvTranspose3d BatchNorm1d BatchNorm2d BatchNorm3d LayerNorm GroupNorm InstanceNorm1d InstanceNorm2d "
    "InstanceNorm3d QuantizedLinear QuantizedConv1d QuantizedConv2d QuantizedEmbedding QuantizedLSTM QuantizedGRU "
    "HeadAttention Sequential"
)
SCHEMA_1_WORDS = "per_tensor per_channel per_group static dynamic float zeros same valid reflect replicate circular"
SCHEMA_1_ATTRIBUTES = (
    "num_heads head_dim embed_dim kdim vdim d_model num_attention_heads attention_head_size all_head_size hidden_size "
    "input_size proj_size in_features out_features in1_features in2_features in_channels out_channels groups "
    "num_channels num_groups num_features num_parameters embedding_dim channels width dim inner_dim "
    "activation_relu_or_gelu"
)
CONVOLUTION = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "padding_mode": "zeros", "bias": True}
NORM = {"eps": 1e-05, "momentum": 0.1, "track_running_stats": True}
FLOAT_INPUTS = {"bits": 8, "granularity": "per_channel", "group_size": None, "symmetric": True, "inputs": "float",
                "input_bits": 8}  # fmt: skip
STATIC_INPUTS = FLOAT_INPUTS | {"inputs": "static"}
RECURRENT = "input_size hidden_size num_layers bias batch_first dropout bidirectional"
SIZES_OF_CONVOLUTION = "in_channels out_channels kernel_size stride padding dilation groups padding_mode"
SIZES_OF_NORM = "num_features eps momentum affine track_running_stats"
OWN = "bits granularity group_size symmetric inputs input_bits"
SCHEMA_1_ARGUMENTS = {  # a type -> the arguments that are written, in order; those of its defaults that are among them
    "Linear": ("in_features out_features bias", {"bias": True}),
    "Bilinear": ("in1_features in2_features out_features bias", {"bias": True}),
    "Embedding": ("num_embeddings embedding_dim padding_idx max_norm norm_type scale_grad_by_freq",
                  {"padding_idx": None, "max_norm": None, "norm_type": 2.0, "scale_grad_by_freq": False}),
    "LSTM": (f"{RECURRENT} proj_size", {}),
    "GRU": (RECURRENT, {}),
    "Identity": ("", {}),
    "PReLU": ("num_parameters", {"num_parameters": 1}),
    **{f"Conv{axes}d": (f"{SIZES_OF_CONVOLUTION} bias", CONVOLUTION) for axes in (1, 2, 3)},
    **{f"ConvTranspose{axes}d": (f"{SIZES_OF_CONVOLUTION} output_padding bias", CONVOLUTION | {"output_padding": 0})
       for axes in (1, 2, 3)},
    **{f"BatchNorm{axes}d": (SIZES_OF_NORM, NORM | {"affine": True}) for axes in (1, 2, 3)},
    **{f"InstanceNorm{axes}d": (SIZES_OF_NORM, NORM | {"affine": False, "track_running_stats": False})
       for axes in (1, 2, 3)},
    "LayerNorm": ("normalized_shape eps elementwise_affine bias",
                  {"eps": 1e-05, "elementwise_affine": True, "bias": True}),
    "GroupNorm": ("num_groups num_channels eps affine", {"eps": 1e-05, "affine": True}),
    "QuantizedLinear": (f"in_features out_features bias {OWN}", STATIC_INPUTS),
    **{f"QuantizedConv{axes}d": (f"{SIZES_OF_CONVOLUTION} bias {OWN}".replace("padding_mode ", ""), STATIC_INPUTS)
       for axes in (1, 2)},
    "QuantizedEmbedding": (f"num_embeddings embedding_dim padding_idx {OWN}", FLOAT_INPUTS),
    "QuantizedLSTM": (f"{RECURRENT} {OWN}", FLOAT_INPUTS),
    "QuantizedGRU": (f"{RECURRENT} {OWN}", FLOAT_INPUTS),
    "HeadAttention": ("embed_dim num_heads head_dim bias dropout batch_first",
                      {"bias": True, "dropout": 0.0, "batch_first": False}),
    "Sequential": ("length", {}),
}  # fmt: skip


def test_the_lists_are_those_of_schema_1():
    """New ones go to the end."""
    assert " ".join(TYPES).startswith(SCHEMA_1_TYPES)
    assert " ".join(WORDS).startswith(SCHEMA_1_WORDS)
    assert " ".join(ATTRIBUTES).startswith(SCHEMA_1_ATTRIBUTES)


@pytest.mark.parametrize("kind", SCHEMA_1_TYPES.split())
def test_arguments_and_their_defaults_are_those_of_schema_1(kind):
    names, defaults = SCHEMA_1_ARGUMENTS[kind]
    assert " ".join(names_of(kind)) == names
    assert {name: value for name, value in defaults_of(kind).items() if name in names_of(kind)} == defaults


@pytest.fixture
def butterfly():
    with registered_butterfly():
        yield


def test_a_registered_type_takes_the_place_of_a_layer(net, butterfly):
    changed = copy.deepcopy(net)
    changed.first = nn.Sequential(Butterfly(8, "wide one", scale=0.5), nn.Linear(8, 8))
    changed.again = Butterfly(8, "same")
    data = written(net, describe(changed, net))
    found, again = code_structure(MixedStream.reading(data), net, None, LARGEST)
    assert found == describe(changed, net)
    assert found.layers["first.0"].arguments == {"width": 8, "kind": "wide one", "scale": 0.5}
    assert shapes(again) == shapes(changed)
    assert isinstance(again.again, Butterfly)


def test_who_has_not_registered_a_type_is_told_to(net, butterfly, monkeypatch):
    changed = copy.deepcopy(net)
    changed.head = Butterfly(8, "same")
    data = written(net, describe(changed, net))
    monkeypatch.delitem(LAYER_TYPES, "own.Butterfly")
    with pytest.raises(CodecError, match=r"got 'own\.Butterfly': import what registers it first"):
        code_structure(MixedStream.reading(data), net, None, LARGEST)


def test_text_that_is_too_long_is_refused_by_the_writer(net, butterfly):
    changed = copy.deepcopy(net)
    changed.head = Butterfly(8, "ä" * 32)
    with pytest.raises(CodecError, match="expected a name of at most 63 bytes"):
        written(net, describe(changed, net))


class Script:
    """Calls of a stream, written by hand."""

    more = 40  # words of zeros behind it, so that it does not end too soon

    def __init__(self, factory):
        self.stream, self.places = MixedStream(), list(dict(factory.named_modules(remove_duplicate=False)))

    def bits(self, value, bits):
        self.stream.number(value, bits)
        return self

    def whole(self, *values):
        for value in values:
            code_whole(self.stream, value)
        return self

    def place(self, name):
        return self.bits(self.places.index(name), (len(self.places) - 1).bit_length())

    def type(self, name):
        return self.bits(TYPES.index(name), TYPE_BITS[2])

    def argument(self, kind, value=None):
        """An argument that is not as expected."""
        self.bits(0, 1).bits(kind, 3)
        return self if value is None else self.whole(value)

    def same(self, count):
        for _ in range(count):
            self.bits(1, 1)
        return self

    def last(self):
        """Ties as they are, and nothing behind them."""
        self.more = 0
        return self.bits(1, 1)

    def read(self, factory, largest=LARGEST):
        for _ in range(self.more):
            self.bits(0, 32)
        return code_structure(MixedStream.reading(self.stream.finish()), factory, None, largest)


def end(script):
    """No attributes, no shapes."""
    return script.whole(0, 0).last()


def layer(net, name, kind, count=1):
    return Script(net).whole(count).place(name).type(kind)


def linear(net, outputs):
    return layer(net, "head", "Linear").same(1).argument(WHOLE, outputs).same(1)


HOSTILE = {  # a structure -> why it is none
    "a list beyond all bounds": (
        lambda net: Script(net).whole(1 << 40),
        "a list of at most 1048576, got 1099511627776",
    ),
    "a list of fewer than none": (lambda net: Script(net).whole(-1), "a list of at most 1048576, got -1"),
    "a module that there is not": (lambda net: Script(net).whole(1).bits(15, 4), "one of 11 places, got number 15"),
    "a type that there is not": (
        lambda net: Script(net).whole(1).place("head").bits(31, TYPE_BITS[2]),
        "expected one of 29 places, got number 31",
    ),
    "a type that nobody registered": (
        lambda net: spelt(Script(net).whole(1).place("head"), b"os.system"),
        "layer type: expected one that is known, got 'os.system': import what registers it first",
    ),
    "a type without a name": (lambda net: spelt(Script(net).whole(1).place("head"), b""), "is known, got ''"),
    "a name of no letters": (lambda net: spelt(Script(net).whole(1).place("head"), b"\xff."), "a name in UTF-8"),
    "the model itself": (lambda net: end(layer(net, "", "Identity")), "layers: expected the name of a module"),
    "more numbers than the factory has": (
        lambda net: end(linear(net, 1 << 28)),
        "at most 1048576 numbers in all layers",
    ),
    "a size beyond all bounds": (lambda net: linear(net, 1 << 40), "a number of at most 2147483647, got 1099511627776"),
    "a size below zero": (lambda net: linear(net, -3), "expected what Linear takes"),
    "no size": (lambda net: layer(net, "head", "Linear").argument(NONE).same(2), "expected what Linear takes"),
    "a list for a size": (
        lambda net: layer(net, "head", "Linear").argument(SIZES, 2).whole(3, 3).same(2),
        "expected what Linear takes",
    ),
    "too many sizes": (lambda net: layer(net, "head", "Linear").argument(SIZES, 9), "a list of at most 8, got 9"),
    "a word that there is not": (
        lambda net: layer(net, "head", "Linear").argument(WORD).bits(13, WORD_BITS[2]),
        "expected one of 12 places, got number 13",
    ),
    "a word for a length": (
        lambda net: layer(net, "head", "Sequential").argument(WORD).bits(2, WORD_BITS[2]),
        "length: expected 0 to 1024, got 'per_group'",
    ),
    "a NaN": (
        lambda net: layer(net, "head", "Linear").argument(REAL).bits(0x7FF80000, 32),
        "expected a finite number, got nan",
    ),
    "an infinity": (
        lambda net: layer(net, "head", "Linear").argument(REAL).bits(0x7FF00000, 32),
        "expected a finite number, got inf",
    ),
    "less than what was none before": (
        lambda net: layer(net, "head", "Sequential").argument(AT_MOST),
        "a whole number before, got None",
    ),
    "a sequence of billions": (
        lambda net: layer(net, "head", "Sequential").argument(WHOLE, 2**31 - 1),
        "length: expected 0 to 1024",
    ),
    "an LSTM of a billion layers": (
        lambda net: layer(net, "head", "QuantizedLSTM").argument(WHOLE, 4).argument(WHOLE, 4).argument(WHOLE, 10**9),
        "num_layers: expected 0 to 1024, got 1000000000",
    ),
    "more modules than any model has": (lambda net: nested(net), f"at most {MOST_INSIDE} modules and tensors"),
    "an attribute of another module": (
        lambda net: Script(net).whole(0, 1).place("head").bits(0, 5).whole(3, 0).last(),
        "an integer attribute that the module has",
    ),
    "an attribute that there is not": (
        lambda net: Script(net).whole(0, 1).place("head").bits(30, 5),
        "expected one of 29 places, got number 30",
    ),
    "a shape beyond all bounds": (
        lambda net: Script(net).whole(0, 0, 1).bits(0, 5).whole(2, 1 << 30, 1 << 30).last(),
        "at most 1048576 numbers in all",
    ),
    "a shape beyond all bounds beside a zero": (
        lambda net: Script(net).whole(0, 0, 1).bits(0, 5).whole(4, 0, *[2**31 - 1] * 3).last(),
        "at most 1048576 numbers in all",
    ),
    "a shape below zero": (
        lambda net: Script(net).whole(0, 0, 1).bits(0, 5).whole(1, -4).last(),
        "at most 1048576 numbers in all",
    ),
    "a module replaced twice": (
        lambda net: layer(net, "head", "Identity", 2).place("head").type("Identity"),
        "each name once, got 'head' twice",
    ),
    "an attribute set twice": (
        lambda net: Script(net).whole(0, 2).place("attention").bits(0, 5).whole(3).place("attention").bits(0, 5),
        "each name once, got 'num_heads' twice",
    ),
    "a tensor of two shapes": (
        lambda net: Script(net).whole(0, 0, 2).bits(0, 5).whole(1, 3).bits(0, 5),
        "each name once, got 'place' twice",
    ),
    "a tie of a parameter with itself": (
        lambda net: Script(net).whole(0, 0, 0).bits(0, 1).whole(1, 2).bits(3, 5).bits(3, 5),
        r"each name once, got 'features\.1\.weight' twice",
    ),
    "more ties than parameters": (
        lambda net: Script(net).whole(0, 0, 0).bits(0, 1).whole(1 << 10),
        r"a list of at most \d\d, got 1024",
    ),
    "ties of more parameters than there are": (
        lambda net: Script(net).whole(0, 0, 0).bits(0, 1).whole(1, 1 << 10),
        r"a list of at most \d\d, got 1024",
    ),
    "a tie of different shapes": (
        lambda net: Script(net).whole(0, 0, 0).bits(0, 1).whole(1, 2).bits(0, 5).bits(1, 5),
        "parameters of one shape",
    ),
}


def spelt(script, name):
    """A type that is written out."""
    script.bits(63, TYPE_BITS[2]).bits(len(name), LENGTH_BITS)
    for letter in name:
        script.bits(letter, 8)
    return script


def nested(net):
    """Sequences in a sequence: each takes some bits and is a thousand modules."""
    script = layer(net, "head", "Sequential")
    script.stream = MixedStream()
    script.whole(40).place("head").type("Sequential").argument(WHOLE, 1024)
    script.places += [f"head.{number}" for number in range(1024)]
    for number in range(39):
        script.place(f"head.{number}").type("Sequential").same(1)
        script.places += [f"head.{number}.{child}" for child in range(1024)]
    return script


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", HOSTILE)
def test_what_describes_no_model_is_refused(net, case):
    build, complaint = HOSTILE[case]
    with pytest.raises(CodecError, match=f"structure.*{complaint}"):
        build(net).read(net)


def test_what_cannot_be_coded_is_named(net):
    structure = Structure(attributes={"none": {"num_heads": 1}})
    with pytest.raises(CodecError, match="structure: 'none': cannot be coded: expected one of 11 that are known"):
        written(net, structure)


@settings(max_examples=100)
@given(data=st.binary(max_size=200), kind=st.sampled_from([Net, lambda: nn.Linear(3, 2), nn.Sequential]))
def test_any_bytes_are_a_model_or_a_codec_error(data, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of layers without numbers
        try:
            structure, model = code_structure(MixedStream.reading(data), kind(), None, LARGEST)
        except CodecError:
            return
    assert set(structure.ties) == set(ties(model)) or any(len(set(group)) < 2 for group in structure.ties)


def test_a_random_stream_ends(net):
    """A list of a million asks for bits that are not there."""
    stream = MixedStream.reading(np.random.default_rng(0).bytes(64))
    with pytest.raises(CodecError):
        code_structure(stream, net, None, LARGEST)
    many = MixedStream()
    code_whole(many, 1 << 20)
    with pytest.raises(CodecError, match=r"structure|stream"):
        code_structure(MixedStream.reading(many.finish()), net, None, LARGEST)
