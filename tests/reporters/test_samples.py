"""Examples and calls summed up: right counts, nothing of another run, and no figure where none may be told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from compression_gate.reporters.samples import BINS, MOST_CLASSES, calls_of, confusion_of, samples_of
from compression_gate.stages import gate
from compression_gate.stages.report import read_findings, with_samples


def predictions(target, before, after) -> dict[str, np.ndarray]:
    return {
        "target": np.array(target),
        "reference_predicted": np.array(before),
        "candidate_predicted": np.array(after),
    }


def test_confusion_counts_true_classes_down_and_predicted_ones_across() -> None:
    found = confusion_of(predictions([0, 0, 1, 2], [0, 1, 1, 2], [0, 2, 2, 2]), ("cat", "dog", "eel"))
    assert found.labels == ("cat", "dog", "eel")
    assert found.before == ((1, 1, 0), (0, 1, 0), (0, 0, 1))
    assert found.after == ((1, 0, 1), (0, 0, 1), (0, 0, 1))
    assert found.errors == (1, 2)
    assert found.changes == (("cat", "dog", 1, 0), ("cat", "eel", 0, 1), ("dog", "eel", 0, 1))


def test_many_classes_leave_their_largest_changes() -> None:
    target = np.repeat(np.arange(MOST_CLASSES + 1), 4)
    after = target.copy()
    after[:3] = 7
    found = confusion_of(predictions(target, target, after), ())
    assert (found.before, found.after) == ((), ())
    assert found.changes == (("0", "7", 0, 3),)


ODD = [
    {},
    predictions([], [], []),
    predictions([0, 1], [0], [0, 1]),
    predictions([[0], [1]], [[0], [1]], [[0], [1]]),
]


@pytest.mark.parametrize("arrays", ODD)
def test_outcomes_that_are_no_labels_of_the_same_examples_give_nothing(arrays: dict) -> None:
    assert confusion_of(arrays, ()) is None


def test_predictions_that_the_evaluation_does_not_speak_of_are_left_out(finished: Path) -> None:
    gate.run(finished)
    evaluation = read_findings(finished).evaluation
    path = finished / "reports/predictions.npz"
    assert samples_of(path, path, evaluation, None).confusion is not None
    assert samples_of(path, path, evaluation.model_copy(update={"predictions_digest": "other"}), None).confusion is None
    assert samples_of(path, path, None, None).confusion is None


CALLS = {f"baseline_pairs_{n}_cpu": np.random.default_rng(n).lognormal(-9, 0.1, (2, 400)) for n in range(2)}


def test_calls_that_the_verdict_does_not_rest_on_are_left_out(finished: Path) -> None:
    path = finished / "reports/timings.npz"
    np.savez(path, **CALLS)
    gate.run(finished)
    assert list(with_samples(read_findings(finished), finished).samples.calls) == ["baseline"]
    findings = read_findings(finished)
    unbound = replace(findings, verdict=findings.verdict.model_copy(update={"bindings": {}}))
    assert with_samples(unbound, finished).samples.calls == {}
    np.savez(path, **{name: 2 * calls for name, calls in CALLS.items()})
    assert with_samples(read_findings(finished), finished).samples.calls == {}


def test_test_set_that_may_tell_one_answer_shows_no_confusion(finished: Path) -> None:
    path = finished / "params.yaml"
    values = yaml.safe_load(path.read_text())
    values["gate"]["policies"] = {"test_reuse": {"uses": 5, "mode": "adaptive"}}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    gate.run(finished)
    found = with_samples(read_findings(finished), finished)
    assert found.samples.confusion is None
    assert found.tried == ()


def test_calls_of_a_pair_are_counted_in_the_same_bins() -> None:
    random = np.random.default_rng(0)
    turns = [np.stack([random.lognormal(-9, 0.1, 400), random.lognormal(-10, 0.1, 400)]) for _ in range(2)]
    turns[0][0, :3] = [np.nan, -1.0, 0.0]  # a clock that failed
    arrays = {f"baseline_pairs_{n}_cpu": turn for n, turn in enumerate(turns)}
    arrays |= {"baseline_pairs_0_wall": turns[0], "baseline_control_0_cpu": turns[1]}
    ((role, (other, candidate)),) = calls_of(arrays).items()
    assert role == "baseline"
    assert other.edges == candidate.edges
    assert len(other.edges) == BINS + 1
    assert other.n == candidate.n == 797
    assert other.middle == pytest.approx(1e3 * np.exp(-9), rel=0.05)
    assert candidate.middle == pytest.approx(1e3 * np.exp(-10), rel=0.05)
    assert 0.97 * 797 <= (sum(other.counts) + sum(candidate.counts)) / 2 <= 797


NO_CALLS = [np.ones((2, BINS - 1)), np.ones(3 * BINS), np.ones((3, 3 * BINS)), np.ones((2, 0))]


@pytest.mark.parametrize("turn", NO_CALLS)
def test_too_few_calls_or_none_of_pairs_are_no_histogram(turn: np.ndarray) -> None:
    assert calls_of({"baseline_pairs_0_cpu": turn}) == {}
