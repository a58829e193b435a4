"""Every row of the table of methods on every kind of model: what any method must keep."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from compression_gate import registry
from compression_gate.errors import CompressionError, ParamsError
from compression_gate.methods import METHODS
from compression_gate.methods.base import Context, Method
from compression_gate.methods.chain import factory_of, method_of
from compression_gate.modules.saved_model import load_model, save_model
from compression_gate.modules.surgery import state_digest, weights
from compression_gate.records.params import Step

IMAGES, SEQUENCES = (
    ("mlp", "lenet", "resnet", "mobilenet"),
    ("tokens", "transformer", "recurrent", "gru", "bidirectional"),
)
KINDS = (*IMAGES, *SEQUENCES, "tied", "tiedembedding")
# What a method cannot treat at all: (method, kind) -> the text of its refusal.
REFUSALS: dict[tuple[str, str], str] = {
    **{
        ("batchnorm_folding", kind): "no batch norm can be folded"
        for kind in KINDS
        if kind not in ("resnet", "mobilenet")
    },
}
# Methods that know nothing but norms.
BY_NORMS = {"batchnorm_folding"}
# Methods that treat parameters wherever they are.
ANY_PARAMETER = {"distillation", "rate_aware_training"}
# What to apply where the defaults are not enough; a method that needs nothing has no row.
OPTIONS = {
    "magnitude_pruning": {"sparsity": 0.5},
    "distillation": {"epochs": 1},
    "ensemble": {
        "members": [[{"method": "structured_pruning"}], [{"method": "magnitude_pruning", "sparsity": 0.5}]],
    },
    "weight_sharing": {"bits": 3},
    "quantization_aware_training": {"epochs": 1},
    "rate_aware_training": {"strength": 1.0, "epochs": 1},
    "low_rank": {"rank": 3},
    "sparsity_training": {"epochs": 1},
}
# An option that cannot be, for every method.
BAD_OPTIONS = {
    "structured_pruning": ("pruning_ratio", 1.5),
    "magnitude_pruning": ("sparsity", -0.1),
    "distillation": ("alpha", 2.0),
    "ensemble": ("mode", "glued"),
    "static_quantization": ("bits", 99),
    "weight_only_quantization": ("bits", 1),
    "dynamic_quantization": ("granularity", "per_group"),
    "quantization_aware_training": ("bits", 16),
    "weight_sharing": ("bits", 0),
    "rate_aware_training": ("levels", 0),
    "low_rank": ("rank", 0),
    "sparsity_training": ("strength", -1.0),
    "batchnorm_folding": ("tolerance", -1.0),
}


@pytest.fixture(params=sorted(METHODS))
def name(request):
    return request.param


def method(name, **options):
    return method_of(Step(method=name, **(OPTIONS.get(name, {}) | options)))


def test_every_method_is_importable_and_has_a_row_here(name):
    assert isinstance(method(name), Method)
    assert registry.load("methods", name, METHODS).__doc__
    assert name in BAD_OPTIONS


def test_a_bad_option_names_itself_and_the_value(name):
    option, value = BAD_OPTIONS[name]
    with pytest.raises(ParamsError, match=rf"^{option}: .*{value}") as caught:
        method(name, **{option: value})
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("name", sorted(METHODS.keys() - BY_NORMS))
def test_a_layer_of_the_users_own_is_named(tiny, name):
    suite = tiny("own")
    context: Context = suite.context()
    method(name).apply(suite.reference, context)
    assert any("own" in one for one in (*context.notes.covered, *context.notes.uncovered))


@pytest.mark.parametrize("name", sorted(METHODS.keys() - BY_NORMS - ANY_PARAMETER))
def test_a_model_of_such_layers_alone_is_refused_with_their_names(tiny, name):
    suite = tiny("own")
    alone = nn.Sequential(OrderedDict(own=suite.reference.own))
    with pytest.raises(CompressionError, match=r": own(\.factors)?: .*Scaled"):
        suite.apply(method(name), alone)


def nonzeros(model):
    return sum(int((value != 0).sum()) for value in weights(model).values())


def parameters(model):
    return sum(value.numel() for value in model.parameters())


def values(model):
    return sum(len(value.unique()) for value in weights(model).values())


def integers(model):
    return sum(value.numel() for value in model.state_dict().values() if value.dtype == torch.int8)


EFFECTS = {
    "fewer_parameters": lambda before, after: parameters(after) < parameters(before),
    "fewer_nonzeros": lambda before, after: nonzeros(after) < nonzeros(before),
    "fewer_values": lambda before, after: values(after) < values(before),
    "integer_weights": lambda before, after: integers(after) > integers(before),
    "changed_weights": lambda before, after: state_digest(after) != state_digest(before),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_method_keeps_its_promises(tiny, tmp_path, kind, name):
    suite = tiny(kind)
    if (name, kind) in REFUSALS:
        with pytest.raises(CompressionError, match=REFUSALS[name, kind]):
            suite.apply(method(name))
        return
    before, outputs = state_digest(suite.reference), suite.outputs(suite.reference)
    step = method(name)
    context: Context = suite.context()

    compressed = step.apply(suite.reference, context)

    assert state_digest(suite.reference) == before, "the model it was given changed"
    assert not any(parameter.grad is not None for parameter in suite.reference.parameters())
    after = suite.outputs(compressed)
    assert after.shape == outputs.shape
    assert torch.isfinite(after).all()
    assert EFFECTS[step.effect](suite.reference, compressed), f"no {step.effect}"
    assert context.notes.covered
    assert state_digest(suite.apply(step)) == state_digest(compressed), "same seed, other weights"
    factory = factory_of([step], suite.factory, suite.task)
    save_model(compressed, factory, tmp_path / "saved")
    loaded = load_model(factory, tmp_path / "saved")
    assert state_digest(loaded) == state_digest(compressed)
    assert torch.equal(suite.outputs(loaded), after)
