"""Few distinct values: how many, which, and that they stay together."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compression_gate.errors import ParamsError
from compression_gate.methods.magnitude_pruning import MagnitudePruning
from compression_gate.methods.weight_sharing import WeightSharing, clustered, summed
from compression_gate.modules.surgery import state_digest, weights
from compression_gate.tasks import training


@pytest.mark.parametrize("init", ["linear", "density", "random"])
@pytest.mark.parametrize(("options", "most"), [({"bits": 3}, 8), ({"clusters": 5}, 5)])
def test_no_layer_holds_more_values_than_asked(tiny, init, options, most):
    shared = tiny("lenet").apply(WeightSharing(**options, init=init))
    counts = [len(weight.unique()) for weight in weights(shared).values()]
    assert max(counts) <= most
    assert counts == [most] * len(counts) or init != "density"


def test_zeros_stay_and_count_as_one_of_the_values(tiny):
    suite = tiny("mlp")
    sparse = suite.apply(MagnitudePruning(sparsity=0.8))
    shared = suite.apply(WeightSharing(bits=3), sparse)
    for name, weight in weights(sparse).items():
        assert torch.equal(weights(shared)[name] == 0, weight == 0)
        assert len(weights(shared)[name].unique()) <= 8


def distinct(model):
    return torch.cat([weight.detach().flatten() for weight in weights(model).values()]).unique()


@pytest.mark.parametrize("init", ["linear", "density", "random"])
def test_one_table_holds_the_values_of_all_layers(tiny, init):
    suite = tiny("lenet")
    shared = suite.apply(WeightSharing(bits=4, scope="global", init=init))
    assert 12 <= len(distinct(shared)) <= 16
    local = suite.apply(WeightSharing(bits=4, init=init))
    assert len(distinct(local)) > 40


@pytest.mark.parametrize("sparsity", [0.0, 0.6])
def test_fine_tuning_keeps_one_table_and_helps(tiny, sparsity):
    suite = tiny("lenet")
    model = suite.apply(MagnitudePruning(sparsity=sparsity)) if sparsity else suite.reference
    bare = suite.apply(WeightSharing(bits=2, scope="global"), model)
    context = suite.context()
    tuned = WeightSharing(bits=2, scope="global", epochs=4).apply(model, context)
    assert len(distinct(tuned)) <= 4
    assert not torch.equal(distinct(tuned), distinct(bare))
    for name, weight in weights(bare).items():
        assert bool((weights(tuned)[name][weight == 0] == 0).all())
        for value in weight.unique():
            assert len(weights(tuned)[name][weight == value].unique()) == 1
    assert suite.accuracy(tuned) > suite.accuracy(bare)
    assert len(context.notes.curves["weight_sharing"]) == 4


@pytest.mark.parametrize("scope", ["local", "global"])
def test_fine_tuning_continued_after_a_kill_ends_where_it_would_have(tiny, tmp_path, monkeypatch, scope):
    suite, method = tiny("mlp"), WeightSharing(bits=2, epochs=2, scope=scope)
    whole = suite.apply(method)
    checkpoint, saved = tmp_path / "checkpoint.pt", training.save_checkpoint

    def killed(*arguments):
        saved(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        suite.apply(method, checkpoint=checkpoint)
    monkeypatch.setattr(training, "save_checkpoint", saved)
    assert state_digest(suite.apply(method, checkpoint=checkpoint)) == state_digest(whole)


@pytest.mark.parametrize("sparsity", [0.0, 0.6])
def test_fine_tuning_moves_the_values_and_keeps_them_shared(tiny, sparsity):
    suite = tiny("lenet")
    model = suite.apply(MagnitudePruning(sparsity=sparsity)) if sparsity else suite.reference
    bare = suite.apply(WeightSharing(bits=2), model)
    tuned = suite.apply(WeightSharing(bits=2, epochs=2), model)
    for name, weight in weights(tuned).items():
        before = weights(bare)[name]
        assert not torch.equal(weight, before)
        assert bool((weight[before == 0] == 0).all())
        for value in before.unique():
            assert len(weight[before == value].unique()) == 1
    assert not any(weight._backward_hooks for weight in weights(tuned).values())


def test_more_bits_cost_less_accuracy(tiny):
    suite = tiny("mlp")
    distance = [
        float((suite.outputs(suite.apply(WeightSharing(bits=bits))) - suite.outputs(suite.reference)).abs().mean())
        for bits in (1, 3, 6)
    ]
    assert distance == sorted(distance, reverse=True)


def test_the_seed_decides_a_random_start(tiny):
    suite, method = tiny("mlp"), WeightSharing(bits=3, init="random")
    other = suite.params.train.model_copy(update={"seed": 5})
    again = method.apply(
        suite.reference, type(suite.context())(task=suite.task, reference=suite.reference, train=other)
    )
    assert state_digest(suite.apply(method)) == state_digest(suite.apply(method)) != state_digest(again)


def test_the_gradient_of_a_shared_value_is_the_sum_over_its_weights():
    index = torch.tensor([[0, 1, 0], [-1, 1, 0]])
    gradient = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    assert summed(index)(gradient).tolist() == [[37.0, 18.0, 37.0], [0.0, 18.0, 37.0]]


NUMBERS = st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=60)


@given(NUMBERS, st.integers(1, 8), st.sampled_from(["linear", "density", "random"]))
def test_clusters_are_means_and_every_number_is_with_its_nearest(values, count, init):
    ordered = torch.tensor(values, dtype=torch.double).sort().values
    centres, inside = clustered(ordered, count, init, torch.Generator().manual_seed(0))
    assert 1 <= len(centres) <= count
    for index in range(len(centres)):
        assert float(ordered[inside == index].mean()) == pytest.approx(float(centres[index]), abs=1e-9)
    distances = (ordered[:, None] - centres[None]).abs()
    assert bool((distances.gather(1, inside[:, None])[:, 0] <= distances.min(1).values + 1e-9).all())


def test_clusters_are_the_best_where_all_partitions_can_be_tried():
    ordered = torch.tensor([0.0, 0.1, 0.2, 5.0, 5.1, 9.0], dtype=torch.double)

    def cost(parts):
        return sum(float((part - part.mean()).square().sum()) for part in parts)

    best = min(cost(ordered.tensor_split(cuts)) for cuts in itertools.combinations(range(1, 6), 2))
    centres, inside = clustered(ordered, 3, "linear", torch.Generator())
    assert float((ordered - centres[inside]).square().sum()) == pytest.approx(best)


BAD = [
    ({}, "bits: expected exactly one of bits, clusters, got none"),
    ({"bits": 4, "clusters": 16}, "bits: expected exactly one of .*got bits and clusters"),
    ({"bits": 17}, "bits: expected 1 or more and at most 16, got 17"),
    ({"clusters": 1}, "clusters: expected 2 or more"),
    ({"bits": 4, "scope": "all"}, "scope: expected one of local, global, got 'all'"),
    ({"bits": 4, "init": "linar"}, r"init: .*'linar' \(did you mean 'linear'\?\)"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ParamsError, match=message):
        WeightSharing(**options)


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("epochs", [0, 1])
def test_an_ignored_layer_keeps_its_own_weights(tiny, scope, epochs):
    suite = tiny("mlp")
    before = weights(suite.reference)
    first, *others = before
    context = suite.context()
    step = WeightSharing(bits=3, scope=scope, epochs=epochs, ignore=(first.removesuffix(".weight"),))
    after = weights(step.apply(suite.reference, context))
    assert torch.equal(after[first], before[first]) is (epochs == 0)
    assert len(after[first].unique()) == len(before[first].unique())
    assert all(len(after[name].unique()) <= 8 for name in others)
    assert context.notes.uncovered == {first: "it is in `ignore`"}
    assert first not in context.notes.covered


@pytest.mark.parametrize("scope", ["local", "global"])
def test_zeros_of_an_ignored_layer_stay_zero_while_values_are_trained(tiny, scope):
    suite = tiny("mlp")
    sparse = suite.apply(MagnitudePruning(sparsity=0.5))
    tuned = suite.apply(WeightSharing(bits=3, scope=scope, epochs=1, ignore=("second",)), sparse)
    assert torch.equal(tuned.second.weight == 0, sparse.second.weight == 0)


def test_a_layer_to_ignore_that_is_not_there_is_named(tiny):
    with pytest.raises(ParamsError, match=r"ignore: expected one of .*got 'heat'"):
        tiny("mlp").apply(WeightSharing(bits=3, ignore=("heat",)))
