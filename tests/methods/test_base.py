"""What a method may say about its work."""

from __future__ import annotations

import pytest

from compression_gate.methods.base import Method, Notes
from compression_gate.methods.low_rank import LowRank
from compression_gate.methods.magnitude_pruning import MagnitudePruning
from compression_gate.methods.quantization_aware_training import QuantizationAwareTraining
from compression_gate.methods.weight_sharing import WeightSharing
from compression_gate.tasks.training import Epoch

ROW = Epoch(epoch=1, loss=0.5, validation_loss=0.6, validation_quality=None, seconds=1.0)


def test_a_label_that_is_taken_gets_a_number():
    notes = Notes()
    for _ in range(3):
        notes.add_curve("fine-tuning", [ROW])
    assert list(notes.curves) == ["fine-tuning", "fine-tuning 2", "fine-tuning 3"]


def test_a_training_of_no_epochs_leaves_no_curve():
    notes = Notes()
    notes.add_curve("fine-tuning", [])
    assert notes.curves == {}


TRAINED_AFTER = [  # methods that change a weight and then train, and what they call the first layer's
    (MagnitudePruning(sparsity=0.5, epochs=1), "first.weight"),
    (MagnitudePruning(sparsity=0.5, epochs=1, schedule="gradual"), "first.weight"),
    (WeightSharing(bits=3, epochs=1), "first.weight"),
    (LowRank(rank=3, epochs=1), "first"),
    (QuantizationAwareTraining(epochs=1), "first"),
]


def frozen_remarks(tiny, method: Method) -> list[str]:
    suite = tiny("mlp")
    suite.reference.first.weight.requires_grad_(False)
    suite.reference.second.bias.requires_grad_(False)
    notes = Notes()
    suite.apply(method, notes=notes)
    return [remark for remark in notes.remarks if remark.startswith("frozen")]


@pytest.mark.parametrize(("method", "name"), TRAINED_AFTER)
def test_a_frozen_weight_that_a_step_changes_and_cannot_train_is_named(tiny, method, name):
    (remark,) = frozen_remarks(tiny, method)
    assert remark.startswith(f"frozen, so changed by this step but not trained: {name}: ")


@pytest.mark.parametrize(
    "method", [MagnitudePruning(sparsity=0.5), MagnitudePruning(sparsity=0.5, epochs=1, ignore=("first",))]
)
def test_a_frozen_weight_is_not_named_where_nothing_is_trained_or_it_stays(tiny, method):
    assert frozen_remarks(tiny, method) == []
