"""Channels that really leave, and everything that must not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compression_gate.errors import CompressionError, ParamsError
from compression_gate.measurers.cost import macs_of
from compression_gate.methods.dependencies import ChannelGroup
from compression_gate.methods.distillation import Distillation
from compression_gate.methods.structured_pruning import StructuredPruning, chosen, lowest_places
from compression_gate.modules.attention import HeadAttention
from compression_gate.modules.saved_model import load_model, save_model
from compression_gate.modules.surgery import state_digest

IMPORTANCES = ("l1", "l2", "taylor", "activation", "norm_scale", "random")


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_every_importance_halves_the_channels_of_a_network_with_norms(tiny, importance):
    suite = tiny("resnet")
    pruned = suite.apply(StructuredPruning(importance=importance))
    assert (pruned.stem.out_channels, pruned.norm.num_features, pruned.blocks[1].last.num_features) == (4, 4, 6)
    assert pruned.head.in_features == 6


def test_depthwise_convolutions_shrink_with_their_neighbours(tiny):
    pruned = tiny("mobilenet").apply(StructuredPruning())
    depthwise = pruned.blocks[0].depthwise[0]
    assert (depthwise.groups, depthwise.in_channels, depthwise.weight.shape[0]) == (12, 12, 12)


def test_the_outputs_of_the_model_stay_and_are_named(tiny):
    suite = tiny("mlp")
    context = suite.context()
    pruned = StructuredPruning(pruning_ratio=0.9).apply(suite.reference, context)
    assert pruned.head.out_features == suite.reference.head.out_features
    assert context.notes.uncovered == {"head": "its outputs are the model's outputs"}
    assert context.notes.covered == ["first", "second"]


def test_whole_heads_leave_and_the_width_beside_them(tiny, tmp_path):
    suite = tiny("transformer")
    pruned = suite.apply(StructuredPruning())
    layer = pruned.encoder.layers[1]
    attention = layer.self_attn
    assert type(attention) is nn.MultiheadAttention, "two heads of four fill the width of eight"
    assert (attention.embed_dim, attention.num_heads, attention.head_dim) == (8, 2, 4)
    assert layer.linear1.out_features == 16
    assert pruned.place.shape == (1, 8, 8)
    save_model(pruned, suite.factory, tmp_path)
    assert torch.equal(suite.outputs(load_model(suite.factory, tmp_path)), suite.outputs(pruned))


def test_heads_that_do_not_fill_the_width_become_an_attention_of_their_own(tiny, tmp_path):
    suite = tiny("transformer")
    pruned = suite.apply(StructuredPruning(ignore=("embed", "encoder.layers.0.linear1")))
    attention = pruned.encoder.layers[0].self_attn
    assert isinstance(attention, HeadAttention)
    assert (attention.embed_dim, attention.num_heads, attention.head_dim) == (16, 2, 4)
    save_model(pruned, suite.factory, tmp_path)
    assert torch.equal(suite.outputs(load_model(suite.factory, tmp_path)), suite.outputs(pruned))


def test_heads_may_leave_twice(tiny):
    suite, method = tiny("transformer"), StructuredPruning(ignore=("embed", "encoder.layers.0.linear1"))
    pruned = suite.apply(method, suite.apply(method))
    attention = pruned.encoder.layers[0].self_attn
    assert (attention.num_heads, attention.k_proj.out_features) == (1, 4)
    assert suite.outputs(pruned).shape == (32, 4)


def test_heads_rounded_to_a_width_leave_as_many_as_have_it(tiny):
    pruned = tiny("transformer").apply(StructuredPruning(pruning_ratio=0.7, round_to=12))
    for layer in pruned.encoder.layers:
        assert layer.self_attn.num_heads * layer.self_attn.head_dim == 12


HALVED = {"recurrent": "lstm", "gru": "gru", "bidirectional": "lstm"}


@pytest.mark.parametrize("importance", ["l1", "l2", "taylor", "activation", "random"])
@pytest.mark.parametrize("kind", HALVED)
def test_hidden_units_leave_every_layer_and_direction(tiny, tmp_path, kind, importance):
    suite = tiny(kind)
    context = suite.context()
    pruned = StructuredPruning(importance=importance).apply(suite.reference, context)
    layer, whole = (getattr(model, HALVED[kind]) for model in (pruned, suite.reference))
    assert layer.hidden_size == whole.hidden_size // 2
    assert layer.weight_ih_l1.shape[1] == whole.weight_ih_l1.shape[1] // 2
    assert context.notes.uncovered == {"head": "its outputs are the model's outputs"}
    save_model(pruned, suite.factory, tmp_path)
    assert torch.equal(suite.outputs(load_model(suite.factory, tmp_path)), suite.outputs(pruned))


class Reader(nn.Module):
    """Reads a recurrent layer in one of the ways people do."""

    def __init__(self, kind, layers, directions, reading):
        super().__init__()
        torch.manual_seed(3)
        self.layer = kind(8, 6, num_layers=layers, bidirectional=directions == 2, batch_first=True)
        self.reading = reading
        self.head = nn.Linear(6 * directions * (8 if reading == "flat" else 1), 4)

    def forward(self, inputs):
        outputs, states = self.layer(inputs.squeeze(1))
        state = states[0] if isinstance(states, tuple) else states
        count = 2 if self.layer.bidirectional else 1
        return self.head(
            {
                "last": lambda: outputs[:, -1],
                "mean": lambda: outputs.tanh().mean(1),
                "state": lambda: torch.cat([state[-number] for number in range(count, 0, -1)], 1),
                "lower": lambda: state[0] + state[-1],
                "flat": lambda: outputs.flatten(1),
            }[self.reading]()
        )


def silence_units(layer, gone):
    """Make hidden units worth nothing: no row, and no column that reads them."""
    for name, value in layer.named_parameters():
        value.data.unflatten(0, (-1, layer.hidden_size))[:, gone] = 0
        if name.startswith("weight_hh") or name.startswith("weight_ih_l1"):
            value.data.unflatten(1, (-1, layer.hidden_size))[:, :, gone] = 0


@pytest.mark.parametrize("reading", ["last", "mean", "state"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_without_units_that_are_worth_nothing_the_answers_stay(tiny, kind, layers, directions, reading):
    suite, model = tiny("gru"), Reader(kind, layers, directions, reading).eval()
    gone = [1, 4, 5]
    silence_units(model.layer, gone)
    model.head.weight.data.unflatten(1, (-1, 6))[:, :, gone] = 0
    pruned = suite.apply(StructuredPruning(), model)
    assert pruned.layer.hidden_size == 3
    torch.testing.assert_close(suite.outputs(pruned), suite.outputs(model))


def test_units_read_in_a_way_that_cannot_be_followed_stay_and_are_named(tiny):
    """Flattened over time, each unit is read by columns far apart, where torch-pruning looks side by side."""
    context = tiny("gru").context()
    with pytest.raises(
        CompressionError, match=r"no channel.*layer: the model without these channels answers otherwise"
    ):
        StructuredPruning().apply(Reader(nn.GRU, 1, 1, "flat").eval(), context)


def test_a_lower_layer_whose_last_state_is_read_stays_and_is_named(tiny):
    with pytest.raises(CompressionError, match=r"no channel.*layer: the model .*without these channels"):
        tiny("gru").apply(StructuredPruning(), Reader(nn.GRU, 2, 1, "lower").eval())


class Started(nn.Module):
    """Gives its recurrent layer a first state."""

    def __init__(self):
        super().__init__()
        self.layer, self.hidden, self.head = nn.GRU(8, 6, batch_first=True), nn.Linear(6, 10), nn.Linear(10, 4)

    def forward(self, inputs):
        first = inputs.new_ones(1, len(inputs), 6)
        return self.head(self.hidden(self.layer(inputs.squeeze(1), first)[0][:, -1]).relu())


def test_a_recurrent_layer_with_a_first_state_stays_and_what_is_behind_it_shrinks(tiny):
    suite = tiny("gru")
    context = suite.context()
    pruned = StructuredPruning().apply(Started().eval(), context)
    assert (pruned.layer.hidden_size, pruned.hidden.out_features) == (6, 5)
    assert "given its first state" in context.notes.uncovered["layer"]


class Heads(nn.Module):
    """An encoder layer straight on the input, with a head that is worth nothing."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.encoder = nn.TransformerEncoderLayer(8, 4, 6, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 4)
        with torch.no_grad():
            attention = self.encoder.self_attn
            for rows in attention.in_proj_weight.view(3, 4, 2, 8), attention.in_proj_bias.view(3, 4, 2):
                rows[:, 2] = 0
            attention.out_proj.weight[:, 4:6] = 0
            for value in (self.encoder.linear1.weight, self.encoder.linear1.bias, self.encoder.linear2.weight.T):
                value[3] = 0

    def forward(self, inputs):
        return self.head(self.encoder(inputs.squeeze(1)).mean(1))


def test_without_a_head_and_a_neuron_that_are_worth_nothing_the_answers_stay(tiny):
    suite, model = tiny("gru"), Heads().eval()
    context = suite.context()
    pruned = StructuredPruning(pruning_ratio=0.25).apply(model, context)
    assert (pruned.encoder.self_attn.num_heads, pruned.encoder.linear1.out_features) == (3, 5)
    torch.testing.assert_close(suite.outputs(pruned), suite.outputs(model))
    assert "linear2" in str(context.notes.uncovered), "the width is the input's"


class Mixed(nn.Module):
    """Adds attention to what a recurrent layer in both directions put side by side."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 8, batch_first=True, bidirectional=True)
        self.attention, self.head = nn.MultiheadAttention(16, 4, batch_first=True), nn.Linear(16, 4)

    def forward(self, inputs):
        features = self.lstm(inputs.squeeze(1))[0]
        return self.head((features + self.attention(features, features, features)[0]).mean(1))


def test_a_width_that_two_directions_and_attention_share_shrinks_in_all_of_them(tiny):
    pruned = tiny("gru").apply(StructuredPruning(), Mixed().eval())
    assert (pruned.lstm.hidden_size, pruned.attention.embed_dim, pruned.attention.num_heads) == (4, 8, 2)


class Pair(nn.Module):
    """Encoder and decoder, which read each other."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(8, 16), nn.Linear(16, 4)
        self.pair = nn.Transformer(16, 4, 1, 1, 32, 0.0, batch_first=True)

    def forward(self, inputs):
        features = self.embed(inputs.squeeze(1))
        return self.head(self.pair(features, features[:, :3]).mean(1))


def test_a_decoder_shrinks_with_its_encoder(tiny, tmp_path):
    suite = tiny("gru")
    context = suite.context()
    pruned = StructuredPruning().apply(Pair().eval(), context)
    assert (pruned.pair.d_model, pruned.pair.decoder.layers[0].multihead_attn.num_heads) == (8, 2)
    assert context.notes.uncovered == {"head": "its outputs are the model's outputs"}
    save_model(pruned, Pair(), tmp_path)
    assert torch.equal(suite.outputs(load_model(Pair(), tmp_path)), suite.outputs(pruned))


class OwnLayer(nn.Module):
    """Multiplies by a weight of its own."""

    def __init__(self):
        super().__init__()
        self.own, self.hidden, self.head = nn.Parameter(torch.randn(64, 12)), nn.Linear(12, 10), nn.Linear(10, 4)

    def forward(self, inputs):
        return self.head(self.hidden((inputs.flatten(1) @ self.own).relu()).relu())


def test_a_weight_outside_layers_of_torch_stays_and_is_named(tiny):
    suite = tiny("mlp")
    context = suite.context()
    pruned = StructuredPruning().apply(OwnLayer().eval(), context)
    assert (tuple(pruned.own.shape), pruned.hidden.out_features) == ((64, 12), 5)
    assert "belongs to OwnLayer" in context.notes.uncovered["own"]


class Flattened(nn.Module):
    """Reads its channels from a flattened tensor in which they come last."""

    def __init__(self):
        super().__init__()
        self.hidden, self.wide, self.head = nn.Linear(8, 6), nn.Linear(48, 10), nn.Linear(10, 4)

    def forward(self, inputs):
        return self.head(self.wide(self.hidden(inputs.squeeze(1)).relu().flatten(1)).relu())


def test_channels_that_would_be_read_in_the_wrong_order_stay(tiny):
    suite = tiny("mlp")
    context = suite.context()
    pruned = StructuredPruning().apply(Flattened().eval(), context)
    assert (pruned.hidden.out_features, pruned.wide.out_features) == (6, 5)
    assert "the model breaks without these channels" in context.notes.uncovered["hidden"]


@pytest.mark.parametrize("kind", ["lenet", "resnet", "mobilenet", "transformer", "bidirectional"])
def test_a_target_in_macs_is_reached_by_the_least_ratio(tiny, kind):
    suite = tiny(kind)
    inputs = suite.task.example_inputs(1)
    pruned = suite.apply(StructuredPruning(macs_ratio=0.4))
    share = 1 - macs_of(pruned, inputs) / macs_of(suite.reference, inputs)
    assert share >= 0.4
    sizes = {"lenet": (8, 12, 16), "resnet": (8, 12), "mobilenet": (8, 12, 24), "transformer": (4, 16, 32)}
    ratios = sorted({count / size for size in sizes.get(kind, (12,)) for count in range(1, size)})
    found = [macs_of(suite.apply(StructuredPruning(pruning_ratio=ratio)), inputs) for ratio in ratios]
    assert macs_of(pruned, inputs) == max(macs for macs in found if 1 - macs / macs_of(suite.reference, inputs) >= 0.4)


def test_a_target_in_macs_beyond_reach_is_refused_with_what_is_in_reach(tiny):
    with pytest.raises(CompressionError, match=r"macs_ratio: expected at most 0\.9\d\d, .*got 0\.9999"):
        tiny("lenet").apply(StructuredPruning(macs_ratio=0.9999))


def test_layers_that_share_a_weight_keep_it_and_are_named(tiny):
    suite = tiny("tied")
    context = suite.context()
    pruned = StructuredPruning().apply(suite.reference, context)
    assert pruned.again.weight is pruned.middle.weight
    assert "shares its weights" in context.notes.uncovered["middle"]
    assert pruned.wide.out_features == 12


def test_ignored_modules_keep_their_channels(tiny):
    suite = tiny("resnet")
    context = suite.context()
    pruned = StructuredPruning(ignore=("blocks.1",)).apply(suite.reference, context)
    assert pruned.blocks[1].first.out_channels == suite.reference.blocks[1].first.out_channels
    assert "ignore" in context.notes.uncovered["blocks.1.first"]
    assert pruned.blocks[0].first.out_channels == 4


def test_an_unknown_name_to_ignore_is_told_with_its_nearest(tiny):
    with pytest.raises(ParamsError, match=r"ignore: .*'blocks\.9'.*blocks"):
        tiny("resnet").apply(StructuredPruning(ignore=("blocks.9",)))


def test_norm_scale_without_norms_is_refused_with_the_reason(tiny):
    with pytest.raises(CompressionError, match=r"no channel can be removed.*first: importance norm_scale"):
        tiny("mlp").apply(StructuredPruning(importance="norm_scale"))


def test_round_to_keeps_multiples_and_at_least_one(tiny):
    pruned = tiny("lenet").apply(StructuredPruning(pruning_ratio=0.7, round_to=4))
    assert (pruned.first.out_channels, pruned.second.out_channels) == (4, 4)


KEPT = [
    (10, 0.5, 1, 5),
    (10, 0.9, 1, 1),
    (10, 0.99, 1, 1),
    (3, 0.5, 1, 2),
    (10, 0.0, 1, 10),
    (64, 0.5, 1, 32),
    (12, 0.5, 8, 8),
]


@pytest.mark.parametrize(("channels", "ratio", "round_to", "kept"), KEPT)
def test_the_share_removed_never_exceeds_the_ratio_and_one_channel_stays(channels, ratio, round_to, kept):
    assert channels - len(lowest_places(torch.rand(channels), 1, ratio, round_to)) == kept


def candidate(scores, **more):
    return ChannelGroup(root="layer", layers=frozenset({"layer"}), scores=torch.tensor(scores), **more)


def test_the_lowest_scores_leave():
    assert chosen(candidate([3.0, 1.0, 2.0, 4.0]), 0.5, 1) == [1, 2]


def test_parts_that_must_shrink_alike_lose_the_same_places():
    assert chosen(candidate([9.0, 1.0, 8.0, 2.0], parts=2), 0.5, 1) == [1, 3]


def test_each_direction_loses_its_own_share_where_both_lie_side_by_side():
    units = {"lstm.units.0": ("lstm", (0, 1, 2)), "lstm.units.1": ("lstm", (3, 4, 5))}
    assert chosen(candidate([9.0, 8.0, 7.0, 1.0, 2.0, 3.0], units=units), 0.4, 1) == [2, 3]


def test_heads_leave_whole():
    assert chosen(candidate([9.0, 0.0, 3.0, 2.0, 6.0, 7.0], head_dim=2), 0.5, 1) == [2, 3]


def test_a_random_choice_follows_the_seed(tiny):
    suite = tiny("mlp")
    other = suite.params.train.model_copy(update={"seed": 5})
    method = StructuredPruning(importance="random")
    one, two = suite.apply(method), suite.apply(method)
    three = method.apply(
        suite.reference, type(suite.context())(task=suite.task, reference=suite.reference, train=other)
    )
    assert state_digest(one) == state_digest(two) != state_digest(three)


def test_frozen_weights_stay_frozen(tiny):
    suite = tiny("mlp")
    suite.reference.first.weight.requires_grad_(False)
    pruned = suite.apply(StructuredPruning())
    assert not pruned.first.weight.requires_grad
    assert pruned.second.weight.requires_grad


def test_l2_hurts_less_than_it_removes_and_distillation_brings_it_back(tiny):
    suite = tiny("lenet")
    pruned = suite.apply(StructuredPruning())
    assert suite.accuracy(suite.apply(Distillation(epochs=3), pruned)) >= suite.accuracy(suite.reference) - 0.1


BAD = [
    ({"pruning_ratio": 1.0}, "pruning_ratio: expected 0 or more and less than 1, got 1.0"),
    ({"pruning_ratio": float("nan")}, "pruning_ratio: .*nan"),
    ({"importance": "tailor"}, r"importance: expected one of l1, .*got 'tailor' \(did you mean 'taylor'\?\)"),
    ({"macs_ratio": 0.0}, "macs_ratio: expected more than 0 and less than 1, got 0.0"),
    ({"macs_ratio": 0.5, "pruning_ratio": 0.5}, "pruning_ratio: expected at most one of pruning_ratio, macs_ratio"),
    ({"round_to": 0}, "round_to: expected 1 or more, got 0"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ParamsError, match=message):
        StructuredPruning(**options)
