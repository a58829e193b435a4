"""The rungs: their order, what sizes rule out, and what a runtime or a format rules out."""

from __future__ import annotations

import pytest
from torch import nn

from compression_gate.errors import CompressionError, ParamsError
from compression_gate.methods.chain import built
from compression_gate.methods.ladder import check_target, facts_of, ladder, without_training
from compression_gate.records.params import Params, Step

MOST, STATE = 1_000.0, 10_000  # bytes: ten times smaller


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.lstm, self.head = nn.Embedding(9, 4), nn.LSTM(4, 5), nn.Linear(5, 3)


CONVOLUTIONS, WORDS = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Linear(4, 3)), Words()


def rungs(model, runtime="onnxruntime", file_format="onnx", fits=lambda _: True):
    return list(ladder(facts_of(model, runtime, file_format), MOST, STATE, fits))


def methods(rung):
    return [step["method"] for step in rung.steps]


CASES = [
    (CONVOLUTIONS, "onnxruntime", "onnx", ["static_quantization"], 5),
    (WORDS, "onnxruntime", "onnx", ["static_quantization", "weight_only_quantization"], 5),
    (CONVOLUTIONS, "torch", "pt2", ["weight_only_quantization"], 3),
    (nn.Sequential(nn.Embedding(3, 3)), "openvino", "onnx", ["weight_only_quantization"], 5),
]


@pytest.mark.parametrize(("model", "runtime", "file_format", "first", "count"), CASES)
def test_layers_runtime_and_format_say_how_weights_become_integers(model, runtime, file_format, first, count):
    found = rungs(model, runtime, file_format)
    assert methods(found[0]) == first
    assert len(found) == count
    assert len({rung.name for rung in found}) == count
    assert all(rung.why for rung in found)


@pytest.mark.parametrize(("runtime", "bits"), [("onnxruntime", 2), ("openvino", 4), ("torch", 8)])
def test_no_fewer_bits_are_trained_than_a_file_can_hold(runtime, bits):
    def trained_bits(most):
        found = rungs(CONVOLUTIONS, runtime, fits=lambda steps: steps[0].get("bits", 2) <= most)
        return next(rung for rung in found if rung.name == "trained bits")

    assert trained_bits(bits).steps[0]["bits"] == bits
    assert trained_bits(bits - 1).reason == "its file would not be 10 × smaller"


def test_the_coded_file_has_a_rung_that_is_trained_to_its_bytes():
    found = {rung.name: rung for rung in rungs(CONVOLUTIONS, file_format="coded")}
    (step,) = found["priced bits"].steps
    assert step["method"] == "rate_aware_training"
    assert 0.95 * MOST < step["target_bytes"] < MOST
    assert step["epochs"] == found["priced bits"].epochs
    assert list(found).index("priced bits") < list(found).index("trained bits")
    assert "priced bits" not in {rung.name for rung in rungs(CONVOLUTIONS)}


def test_what_a_coded_file_takes_beside_its_tensors_is_left_for_it():
    facts = facts_of(CONVOLUTIONS, "onnxruntime", "coded")
    assert 12 <= facts.framing_bytes <= 32
    for most in (100, 1000):
        found = {rung.name: rung for rung in ladder(facts, most, STATE, lambda _: True)}
        (step,) = found["priced bits"].steps
        assert 0.97 * most < step["target_bytes"] + facts.framing_bytes < most - 0.01 * (most - facts.framing_bytes)


@pytest.mark.parametrize("model", [CONVOLUTIONS, WORDS])
def test_every_rung_is_an_order_that_makes_sense(model):
    for rung in rungs(model):
        assert built([Step.model_validate(step) for step in rung.steps], "here")
        assert built([Step.model_validate(step) for step in without_training(rung.steps)], "here")
        trained = sum(step.get("epochs", 0) for step in rung.steps)
        assert trained == rung.epochs
        assert all("epochs" not in step for step in without_training(rung.steps))


def test_what_costs_no_training_comes_first():
    epochs = [rung.epochs for rung in rungs(CONVOLUTIONS)]
    assert epochs == sorted(epochs)
    assert epochs[0] == 0


def test_the_gentlest_value_that_fits_is_taken():
    def fits(steps):
        ratio = next((step["pruning_ratio"] for step in steps if step["method"] == "structured_pruning"), 0.0)
        mean = next((step["budget"] for step in steps if step.get("budget") is not None), 8.0)
        bits = next((step["bits"] for step in steps if "bits" in step), 8.0)
        return ratio >= 0.33 or mean <= 3.1 or bits <= 4

    found = {rung.name: rung for rung in rungs(CONVOLUTIONS, fits=fits)}
    assert found["8 bits"].reason == "its file would not be 10 × smaller"
    assert found["bits by sensitivity"].steps[0]["budget"] == 3.0
    assert found["trained bits"].steps[0]["bits"] == 4
    assert found["narrow, 8 bits"].steps[0]["pruning_ratio"] == 0.35


def test_a_rung_that_cannot_be_says_what_the_method_said():
    def fits(steps):
        if steps[0]["method"] == "structured_pruning":
            raise CompressionError("structured_pruning: no channel can be removed")
        return False

    found = {rung.name: rung for rung in rungs(CONVOLUTIONS, fits=fits)}
    assert found["narrow, 8 bits"].reason == "structured_pruning: no channel can be removed"
    assert all(rung.reason and not rung.steps for rung in found.values())


def test_a_target_without_an_accuracy_is_refused():
    task = {"model": "a:B", "data": "a:c", "kind": "regression"}
    params = Params.model_validate({"task": task, "compress": {"target": {"size_bytes": 9, "max_accuracy_drop": 0.01}}})
    with pytest.raises(ParamsError, match=r"compress\.target\.max_accuracy_drop: .*got 'regression'"):
        check_target(params)
