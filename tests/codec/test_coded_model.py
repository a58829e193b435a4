"""Models as coded files: every kind comes back, in few bytes; and files that nobody should believe."""

from __future__ import annotations

import copy
import random
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from coded_files import of_model, sealed
from torch import nn

from compression_gate.codec import coded_model, container
from compression_gate.codec.coded_model import (
    NAMES,
    decode_model,
    encode_model,
    most_numbers,
    own_tensors,
    signature_of,
)
from compression_gate.codec.coded_size import coded_bytes, framing_bytes
from compression_gate.codec.container import MODEL, read_head
from compression_gate.codec.inspection import inspected
from compression_gate.codec.streams import MixedStream, code_whole
from compression_gate.codec.structure_code import TYPE_BITS, TYPES, WHOLE
from compression_gate.errors import CodecError, CompressionError
from compression_gate.methods.chain import factory_of, method_of
from compression_gate.modules.layer_types import LAYER_TYPES
from compression_gate.modules.surgery import state_digest, ties, weights
from compression_gate.records.params import Step

KINDS = ["mlp", "lenet", "resnet", "mobilenet", "tokens", "transformer", "recurrent", "gru", "bidirectional", "tied"]
MOST_HEADER_BYTES = 32  # of a tiny model: everything but its tensors


def round_trip(model, factory, path):
    """Coded and decoded; −0 becomes 0, everything else is the same to the bit."""
    before = state_digest(factory)
    size = encode_model(model, factory, path)
    assert size == path.stat().st_size
    again = decode_model(factory, path)
    assert state_digest(factory) == before
    assert not again.training
    wanted, got = model.state_dict(), again.state_dict()
    assert list(got) == list(wanted)
    for name, tensor in wanted.items():
        assert got[name].dtype == tensor.dtype, name
        assert got[name].shape == tensor.shape, name
        assert torch.equal(bits_of(got[name]), bits_of(tensor)), name
    assert set(ties(again)) == set(ties(model))
    return again


def bits_of(tensor):
    if tensor.is_floating_point() and tensor.element_size() > 1:
        tensor = tensor.masked_fill(tensor == 0, 0)
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def rounded(model, step=0.05):
    """Weights as integers times a step, most of them zero."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for weight in weights(model).values():
            weight.copy_((weight / step / 2).round() * step + 0)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_comes_back(untrained, tmp_path, kind):
    suite = untrained(kind)
    for model in (suite.reference, rounded(suite.reference)):
        again = round_trip(model, suite.factory, tmp_path / "model.cgz")
        assert torch.equal(suite.outputs(again), suite.outputs(model))
        assert inspected(tmp_path / "model.cgz", suite.factory).head_bytes <= MOST_HEADER_BYTES


GROUPS = {"bits": 4, "granularity": "per_group"}
METHODS = [  # a method, its options, a kind of model
    ("magnitude_pruning", {"sparsity": 0.9}, "lenet"),
    ("structured_pruning", {"pruning_ratio": 0.5}, "mlp"),
    ("structured_pruning", {"pruning_ratio": 0.5}, "recurrent"),
    ("structured_pruning", {"pruning_ratio": 0.5}, "transformer"),
    ("low_rank", {"rank": 3}, "mlp"),
    ("low_rank", {"rank": 3}, "resnet"),
    ("static_quantization", {"bits": 8}, "mlp"),
    ("static_quantization", {"bits": 8}, "mobilenet"),
    ("static_quantization", {"bits": 4}, "lenet"),
    ("weight_only_quantization", GROUPS | {"group_size": 8}, "mlp"),
    (
        "weight_only_quantization",
        GROUPS | {"group_size": 4, "symmetric": False},
        "tokens",
    ),
    ("dynamic_quantization", {}, "recurrent"),
    ("dynamic_quantization", {}, "gru"),
    ("weight_sharing", {"bits": 3}, "lenet"),
    ("weight_sharing", {"bits": 3}, "tied"),
    ("structured_pruning", {"pruning_ratio": 0.5}, "tied"),
    ("batchnorm_folding", {}, "resnet"),
]


@pytest.mark.parametrize(("name", "options", "kind"), METHODS)
def test_what_a_method_makes_comes_back(untrained, tmp_path, name, options, kind):
    suite = untrained(kind)
    step = method_of(Step(method=name, **options))
    compressed = suite.apply(step)
    factory = factory_of([step], suite.factory, suite.task)
    again = round_trip(compressed, factory, tmp_path / "model.cgz")
    assert torch.equal(suite.outputs(again), suite.outputs(compressed))
    plain = sum(tensor.numel() * tensor.element_size() for tensor in suite.reference.state_dict().values())
    assert (tmp_path / "model.cgz").stat().st_size < plain


class Types(nn.Module):
    """A buffer of every type, each with what is special in it."""

    def __init__(self):
        super().__init__()
        for place, kind in enumerate(NAMES):
            values = torch.arange(-20, 20).reshape(4, 10)
            self.register_buffer(f"buffer_{place}", (values > 0) if kind == torch.bool else values.to(kind))
        self.scalar, self.empty = nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.zeros(0, 3))


def test_every_type_comes_back(tmp_path):
    model = Types()
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and buffer.element_size() > 1:
            buffer.view(-1)[:4] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0]).to(buffer.dtype)
        assert buffer.numel(), name
    again = round_trip(model, Types(), tmp_path / "model.cgz")
    assert again.buffer_0.view(-1)[3].signbit().item() is False


def test_a_signalling_nan_keeps_its_bits(tmp_path):
    model = nn.Linear(4, 2)
    with torch.no_grad():
        model.weight.view(torch.int32)[0] = torch.tensor([0x7F800001, 0x7FA00000, -1, -0x7FFFFF])
    again = round_trip(model, nn.Linear(4, 2), tmp_path / "model.cgz")
    assert again.weight.view(torch.int32)[0].tolist() == [0x7F800001, 0x7FA00000, -1, -0x7FFFFF]


@pytest.mark.parametrize("kind", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("shape", [(), (3,), (100, 90)], ids=str)
def test_complex_numbers_come_back(tmp_path, kind, shape):
    """As rotary tables are; the larger one lies in segments."""
    torch.manual_seed(0)
    model, factory = nn.Linear(2, 2), nn.Linear(2, 2)
    model.register_buffer("turn", torch.randn(shape, dtype=kind))
    factory.register_buffer("turn", torch.zeros(shape, dtype=kind))
    assert torch.equal(round_trip(model, factory, tmp_path / "model.cgz").turn, model.turn)


def test_a_type_that_no_file_holds_is_named(tmp_path):
    model = nn.Linear(2, 2)
    model.register_buffer("turn", torch.zeros(2, dtype=torch.float8_e5m2fnuz))
    with pytest.raises(CodecError, match=r"turn: expected one of .*, got torch\.float8_e5m2fnuz"):
        encode_model(model, model, tmp_path / "model.cgz")
    assert not list(tmp_path.iterdir())


class Extra(nn.Module):
    def get_extra_state(self):
        return {"a": 1}

    def set_extra_state(self, state):
        pass


class ExtraTensor(Extra):
    def get_extra_state(self):
        return torch.ones(3)


def sparse():
    model = nn.Linear(3, 3)
    model.register_buffer("eye", torch.eye(3).to_sparse())
    return model


NOT_DENSE = {
    "extra": (lambda: nn.Sequential(Extra()), r"0\._extra_state: expected a parameter or buffer .*, got dict"),
    "extra tensor": (lambda: nn.Sequential(ExtraTensor()), r"0\._extra_state: expected a parameter or buffer"),
    "sparse": (sparse, r"eye: expected .* a dense tensor, got a tensor of layout torch\.sparse_coo"),
}


@pytest.mark.parametrize("case", NOT_DENSE)
def test_what_is_no_dense_tensor_is_named(tmp_path, case):
    build, complaint = NOT_DENSE[case]
    with pytest.raises(CodecError, match=complaint):
        encode_model(build(), build(), tmp_path / "model.cgz")
    with pytest.raises(CodecError, match=complaint):
        decode_model(build(), of_model(0, b""))


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", ["weight_scale", "input_scale"])
def test_an_integer_layer_with_a_scale_that_is_no_number_is_not_written_nor_read(tmp_path, monkeypatch, which, scale):
    model = nn.Sequential(LAYER_TYPES["QuantizedLinear"](4, 4, True))
    getattr(model[0], which).fill_(scale)
    with pytest.raises(CodecError, match=rf"0\.{which}: expected finite scales, got {scale}"):
        encode_model(model, nn.Sequential(nn.Linear(4, 4)), tmp_path / "model.cgz")
    with monkeypatch.context() as patch:
        patch.setattr(coded_model, "check_scales", lambda model: None)
        encode_model(model, nn.Sequential(nn.Linear(4, 4)), tmp_path / "model.cgz")
    with pytest.raises(CodecError, match=rf"model\.cgz: 0\.{which}: expected finite scales, got {scale}"):
        decode_model(nn.Sequential(nn.Linear(4, 4)), tmp_path / "model.cgz")


def test_threads_change_no_byte(tmp_path):
    model = segmented()
    for workers in (1, 3):
        encode_model(model, model, tmp_path / f"{workers}.cgz", workers=workers)
    assert (tmp_path / "1.cgz").read_bytes() == (tmp_path / "3.cgz").read_bytes()
    assert state_digest(decode_model(model, tmp_path / "1.cgz", workers=3)) == state_digest(model)


def test_a_model_without_numbers_takes_twelve_bytes(tmp_path):
    round_trip(nn.Sequential(nn.ReLU()), nn.Sequential(nn.ReLU()), tmp_path / "model.cgz")
    assert (tmp_path / "model.cgz").stat().st_size <= 12


def test_large_tensors_lie_in_segments_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(container, "SEGMENT_NUMBERS", 1 << 14)
    torch.manual_seed(0)
    model = rounded(nn.Sequential(nn.Linear(200, 150), nn.Embedding(20_000, 1), nn.Linear(10, 10)), 0.01)
    for fast in (False, True):
        round_trip_of_profile(model, tmp_path / "model.cgz", fast=fast)
        with (tmp_path / "model.cgz").open("rb") as file:
            head = read_head(file, "")
        assert (len(head.segments), head.fast) == (2 + 2, fast)


def round_trip_of_profile(model, path, *, fast):
    encode_model(model, model, path, fast=fast)
    assert state_digest(decode_model(model, path)) == state_digest(model)


FRAMED = {
    "as the factory's": lambda: nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10)),
    "narrow": lambda: nn.Sequential(nn.Linear(30, 7), nn.ReLU(), nn.Linear(7, 10)),
    "large": lambda: nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 9999)),
}


@pytest.mark.parametrize("case", FRAMED)
def test_what_a_file_takes_beside_its_tensors_is_told_without_them(tmp_path, case):
    torch.manual_seed(0)
    model, factory = FRAMED[case](), FRAMED["large" if case == "large" else "as the factory's"]()
    size = encode_model(model, factory, tmp_path / "model.cgz")
    assert framing_bytes(model, factory) == pytest.approx(size - coded_bytes(model), abs=3)


def test_a_tensor_that_lies_in_another_order_comes_back_in_it(tmp_path):
    torch.manual_seed(0)
    model = nn.Conv2d(64, 64, 3).to(memory_format=torch.channels_last)
    again = round_trip(model, copy.deepcopy(model), tmp_path / "model.cgz")
    assert again.weight.stride() == model.weight.stride()


def test_of_a_huge_tensor_only_pieces_are_held(tmp_path):
    """Neither its numbers nor its segments, written or read; what torch itself allocates is not counted."""
    model = nn.Module()
    model.register_buffer("huge", torch.randint(256, (1 << 27,), dtype=torch.uint8))
    peaks = []
    for work in (
        lambda: encode_model(model, model, tmp_path / "model.cgz", fast=True),
        lambda: decode_model(model, tmp_path / "model.cgz"),
    ):
        tracemalloc.start()
        work()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < model.huge.numel() // 2 < (tmp_path / "model.cgz").stat().st_size // 2, peaks


def test_a_file_does_not_hang_on_the_process(untrained, tmp_path):
    suite = untrained("mlp")
    encode_model(rounded(suite.reference), suite.factory, tmp_path / "a.cgz")
    encode_model(rounded(suite.reference), suite.factory, tmp_path / "b.cgz")
    assert (tmp_path / "a.cgz").read_bytes() == (tmp_path / "b.cgz").read_bytes()


def test_growth_beyond_what_a_reader_allocates_is_refused_when_writing(tmp_path):
    factory = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model = nn.Sequential(nn.Linear(4, 1 << 18), nn.Linear(1 << 18, 4))
    assert most_numbers(factory) < 9 * (1 << 18)
    with pytest.raises(CodecError, match="numbers in all layers"):
        encode_model(model, factory, tmp_path / "model.cgz")


def test_what_the_structure_cannot_say_is_named(tmp_path):
    with pytest.raises(CompressionError, match="0: cannot be saved: Tanh in place of ReLU"):
        encode_model(nn.Sequential(nn.Tanh()), nn.Sequential(nn.ReLU()), tmp_path / "model.cgz")


# Files of schema 1, which must decode to exactly these values for ever.
def small_net():
    torch.manual_seed(0)
    half = nn.Embedding(2, 3, dtype=torch.float16)
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3, bias=False), half).eval()


def first_golden():
    """Multiples of a step, a table, and floats."""
    net = small_net()
    values = torch.tensor([[0, 1, 0, -2, 0, 0], [3, 0, 0, 0, -1, 1], [0] * 6, [5, -5, 2, 0, 0, 1]])
    net[0].weight.data = values * 0.0625
    net[0].bias.data = torch.tensor([0.1, -0.1, 0.3, 0.1])
    net[2].weight.data = torch.tensor([1.5, -2.25, 1e-30, 7.0]).repeat(3, 1)
    net[3].weight.data = torch.tensor([[0.5, float("inf"), 0.1], [-1, 2, 3]], dtype=torch.float16)
    return net


def second_golden():
    """Replaced layers, and integers that are not symmetric."""
    net = small_net()
    net[0] = nn.Sequential(nn.Linear(6, 2, bias=False), nn.Linear(2, 4))
    net[2] = nn.Identity()
    net[0][0].weight.data = torch.arange(12.0).reshape(2, 6) % 5 - 1
    net[0][1].weight.data = torch.tensor([[0.7, -0.3]] * 4)
    net[0][1].bias.data = torch.zeros(4)
    net[3].weight.data = torch.zeros(2, 3, dtype=torch.float16)
    return net.eval()


def third_golden():
    """What schema 2 brought: the same step again, a plane whose shares say everything, a tensor close to another."""
    torch.manual_seed(0)
    net = wide_net()
    net[0].weight.data = (torch.rand(40, 40) < 0.01) * 0.375
    net[0].bias.data = torch.arange(40) % 3 * 0.375
    net[1].weight.data = torch.arange(1, 37).reshape(6, 6) ** 5 / 64
    steps = torch.arange(36, dtype=torch.int32).reshape(6, 6) // 18
    net[2].weight.data = (net[1].weight.data.view(torch.int32) + steps).view(torch.float32)
    for layer in net[1:]:
        layer.bias.data = torch.ones(6)
    return net


def wide_net():
    return nn.Sequential(nn.Linear(40, 40), nn.Linear(6, 6), nn.Linear(6, 6)).eval()


SCHEMA_1 = {
    first_golden: (
        "43475a010144bed3e3b203000ae13eb423c8c4bf20d0c6eae1aeb808d799484b178ea40238c7a70006dcebc3e8715ce1"
        "d019ab5303192d6e8ef3dcd45377155970662c74"
    ),
    second_golden: ("43475a01012ca4cedb7b0300ed879a5fce59ae3f8b9db6685c07c720dcec989c75763ebcf19451f9b881f997"),
}


SCHEMA_2 = {
    first_golden: (
        "43475a0201446d93ca5e03000ae13eb423c8c4bf20d0c6fa84a6f5979eff404b7db3d1b2e3893400036e7a1c2978a3bc250c"
        "d3c9813195e14aa7945d11b6d43da02c9633"
    ),
    second_golden: ("43475a02012d173787e00300eda3cd2ff3966b8ff173b6ce85c07c720dceb8f959118333c5f308fbcee647447b"),
    third_golden: (
        "43475a0201af01847164eec92b0b82f1e343a5e0be932418387339baaf22162f5f0d0df8bc13a265123031a9b4990243e8d2"
        "bbe6945c5b5d9a130dd2356571eba41340ffff1c641ddffffdeb191fab20ee975970cbffcd341b904b249f0e52ee803a1a11"
        "b66dbcb14c79ee3f5fe9930af531bde29906202dc21fe61ea262f50b46cdcf29159a7b0031012cfe51cb5b1bde76a936b836"
        "a87bf68ffff577325045daaa0a974a2ec371fb912b59349f90"
    ),
}


def golden_factory(model):
    return wide_net() if model is third_golden else small_net()


@pytest.mark.parametrize("model", SCHEMA_1, ids=lambda model: model.__name__)
def test_files_of_schema_1_decode_to_what_they_always_did(model):
    assert state_digest(decode_model(small_net(), bytes.fromhex(SCHEMA_1[model]))) == state_digest(model())


@pytest.mark.parametrize("model", SCHEMA_2, ids=lambda model: model.__name__)
def test_files_of_schema_2_are_written_and_decoded_as_ever(model, tmp_path):
    data = bytes.fromhex(SCHEMA_2[model])
    assert state_digest(decode_model(golden_factory(model), data)) == state_digest(model())
    encode_model(model(), golden_factory(model), tmp_path / "model.cgz")
    assert (tmp_path / "model.cgz").read_bytes() == data, "the same numbers were written as other bytes"


SCRIPT = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from compression_gate.codec.coded_model import decode_model
from compression_gate.modules.surgery import state_digest
import test_coded_model as own
files = [*own.SCHEMA_1.items(), *own.SCHEMA_2.items()]
print(*[state_digest(decode_model(own.golden_factory(model), bytes.fromhex(file))) for model, file in files])
"""


def test_kernels_in_plain_python_decode_the_same():
    folder = Path(__file__).parent
    words = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(folder)]
    environment = {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(folder.parent / "support"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [state_digest(model()) for model in (*SCHEMA_1, *SCHEMA_2)]


def small_file(tmp_path):
    torch.manual_seed(0)
    encode_model(first_golden(), small_net(), tmp_path / "model.cgz")
    return (tmp_path / "model.cgz").read_bytes()


def test_every_flipped_bit_and_every_cut_is_found(tmp_path):
    data = small_file(tmp_path)
    factory = small_net()
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CodecError):
            decode_model(factory, bytes(flipped))
    for length in range(len(data)):
        with pytest.raises(CodecError):
            decode_model(factory, data[:length])


OTHERS = [
    nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3, bias=False), nn.Embedding(2, 3)),
    nn.Linear(6, 4),
    nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(4, 3, bias=False), nn.Embedding(2, 3, dtype=torch.float16)),
]


@pytest.mark.parametrize("other", OTHERS, ids=["other types", "other names", "other shapes"])
def test_a_file_of_another_model_is_refused(tmp_path, other):
    with pytest.raises(CodecError, match=r"got one of another: check task\.model and task\.model_args"):
        decode_model(other, small_file(tmp_path))


def test_a_file_without_a_signature_is_no_models():
    with pytest.raises(CodecError, match="got one of named tensors: decode it without a model"):
        decode_model(small_net(), sealed(b"\x0a" + zlib.compress(b"[]"), 0))


def segmented():
    """Two large tensors of one shape and what is small."""
    torch.manual_seed(0)
    return rounded(nn.Sequential(nn.Linear(130, 128), nn.Linear(130, 128)), 0.02)


def parts(tmp_path):
    model = segmented()
    encode_model(model, model, tmp_path / "model.cgz")
    data = (tmp_path / "model.cgz").read_bytes()
    with (tmp_path / "model.cgz").open("rb") as file:
        head = read_head(file, "")
    segments = [data[one.offset : one.offset + one.length] for one in head.segments]
    assert of_model(signature_of(model), head.pool, segments) == data
    return model, head, segments, data


def test_segments_in_another_order_are_found(tmp_path):
    model, _, (first, second), data = parts(tmp_path)
    begin = len(data) - len(first) - len(second)
    with pytest.raises(CodecError, match="segment 0: checksum"):
        decode_model(model, data[:begin] + second + first)


WRONG_SEGMENTS = {
    "missing": (lambda one, two: [one], "expected 2 segments, got 1"),
    "none": (lambda one, two: [], "expected 2 segments, got 0"),
    "one too many": (lambda one, two: [one, two, two], "expected 2 segments, got 3"),
    "empty": (lambda one, two: [one, b""], r"1\.weight"),
    "cut in half": (lambda one, two: [one, two[: len(two) // 2]], r"1\.weight"),
    "with more behind": (lambda one, two: [one, two + b"more than eight bytes"], "to be used up"),
    "joined": (lambda one, two: [one + two, b"\0"], "to be used up"),
}


@pytest.mark.parametrize("case", WRONG_SEGMENTS)
def test_segments_that_do_not_fit_are_refused(tmp_path, case):
    """Their checksums are right: somebody made them so."""
    model, head, segments, _ = parts(tmp_path)
    change, complaint = WRONG_SEGMENTS[case]
    with pytest.raises(CodecError, match=complaint):
        decode_model(model, of_model(signature_of(model), head.pool, change(*segments)))


def test_a_segment_twice_is_a_tensor_twice(tmp_path):
    """Nobody can tell; it is decoded as what it says, within the shapes of the model."""
    model, head, (first, _), _ = parts(tmp_path)
    again = decode_model(model, of_model(signature_of(model), head.pool, [first, first]))
    assert torch.equal(again[1].weight, model[0].weight)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(4))
def test_random_pools_under_right_checksums_are_a_model_or_a_codec_error(seed):
    source = random.Random(seed)
    for factory in (small_net(), nn.Linear(3, 2), nn.Sequential(nn.LSTM(3, 2), nn.MultiheadAttention(4, 2))):
        signature = signature_of(factory)
        for _ in range(60):
            try:
                decode_model(factory, of_model(signature, source.randbytes(source.randrange(120))))
            except CodecError:
                continue


@pytest.mark.filterwarnings("ignore")
def test_pools_with_a_flipped_bit_under_right_checksums_are_a_model_or_a_codec_error():
    data = bytes.fromhex(SCHEMA_2[second_golden])
    factory, found = small_net(), 0
    for bit in range(8 * 12, 8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            decode_model(factory, of_model(signature_of(factory), bytes(flipped[12:])))
        except CodecError:
            found += 1
    assert found


def test_a_hundred_bytes_cannot_ask_for_all_memory():
    """A layer of 2^56 numbers, behind it whatever it takes to be believed."""
    factory = small_net()
    stream = MixedStream()
    places = list(dict(factory.named_modules()))
    code_whole(stream, 1)
    stream.number(places.index("0"), (len(places) - 1).bit_length())
    stream.number(TYPES.index("Linear"), TYPE_BITS[2])
    for _ in range(2):
        stream.number(0, 1)
        stream.number(WHOLE, 3)
        code_whole(stream, 1 << 28)
    stream.numbers(np.full(1000, 2**32 - 1, dtype=np.uint64), 32)
    tracemalloc.start()
    with pytest.raises(CodecError, match=r"at most \d+ numbers in all layers"):
        decode_model(factory, of_model(signature_of(factory), stream.finish()))
    assert tracemalloc.get_traced_memory()[1] < 1 << 23
    tracemalloc.stop()


def test_tied_tensors_are_stored_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert [name for name, _ in own_tensors(model)] == ["0.weight", "0.bias", "1.bias"]


def test_a_model_is_marked_as_one(tmp_path):
    assert small_file(tmp_path)[4] == MODEL
