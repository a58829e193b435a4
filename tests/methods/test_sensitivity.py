"""The table of sensitivities: every layer alone, by the method's own code, measured once."""

from __future__ import annotations

import pytest
import torch

from compression_gate.errors import CompressionError, ParamsError
from compression_gate.methods import sensitivity
from compression_gate.methods.chain import method_of
from compression_gate.methods.sensitivity import (
    FOLDER,
    STRENGTHS,
    Column,
    columns_of,
    groups_of,
    sensitivity_of,
    treatable,
)
from compression_gate.modules.surgery import state_digest
from compression_gate.records.params import Step

MODULE = "tiny_models_of_method_tests"
KINDS = ("mlp", "lenet", "resnet", "mobilenet", "tokens", "transformer", "recurrent", "gru", "bidirectional", "tied")


def column(name, option, value, **options):
    return Column(method=method_of(Step(method=name, **{option: value}, **options)), option=option)


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_of_every_kind_has_figures_or_a_reason(tiny, kind):
    suite = tiny(kind)
    columns = [column(name, option, values[-1]) for name, (option, values) in STRENGTHS.items()]
    before = state_digest(suite.reference)
    table = sensitivity_of(suite.reference, suite.context(), columns, examples=64)
    assert state_digest(suite.reference) == before
    assert {row.method for row in table.rows} == set(STRENGTHS)
    for row in table.rows:
        assert (row.reason is None) == (row.loss_rise is not None), row
    pruned = table.of("magnitude_pruning")
    assert pruned
    assert all(row.nonzeros_saved > 0 and row.bytes_saved == 0 for rows in pruned.values() for row in rows)
    assert all(row.bytes_saved > 0 for rows in table.of("weight_only_quantization").values() for row in rows)
    assert any(row.macs_saved > 0 for rows in table.of("structured_pruning").values() for row in rows)


def test_a_row_is_what_the_method_does_to_that_layer_alone(tiny):
    suite = tiny("mlp")
    table = sensitivity_of(suite.reference, suite.context(), [column("magnitude_pruning", "sparsity", 0.9)])
    (batch,) = suite.task.batches("validation", 10_000)
    names = [name for name, module in suite.reference.named_modules() if isinstance(module, torch.nn.Linear)]
    assert [row.layer for row in table.rows] == names
    for row in table.rows:
        others = tuple(name for name in names if name != row.layer)
        alone = suite.apply(method_of(Step(method="magnitude_pruning", sparsity=0.9, ignore=others)))
        with torch.no_grad():
            outputs = alone(batch.inputs)
            loss = float(suite.task.loss(outputs, batch.targets))
            right = float((outputs.argmax(1) == batch.targets).float().mean())
        assert row.loss_rise == pytest.approx(loss - table.loss, abs=1e-6)
        assert row.quality_drop == pytest.approx(table.quality - right, abs=1e-6)
    assert table.metric == "accuracy"


def test_what_was_measured_is_not_measured_again(tiny, monkeypatch):
    suite = tiny("mlp")
    columns = columns_of(["weight_sharing"])
    first = sensitivity_of(suite.reference, suite.context(), columns)

    def never(*_):
        raise AssertionError("asked again")

    monkeypatch.setattr(sensitivity, "figures_of", never)
    assert sensitivity_of(suite.reference, suite.context(), columns) == first


def digest_changes(tiny, kind="mlp", **changes):
    suite = tiny(kind)
    model = suite.reference
    if changes.get("weights"):
        with torch.no_grad():
            next(model.parameters())[0, 0] += 1
    sensitivity_of(
        model,
        suite.context(),
        [column("magnitude_pruning", "sparsity", changes.get("sparsity", 0.5), score=changes.get("score", "l1"))],
        examples=changes.get("examples", 50),
    )
    return len(list((suite.task.folder / FOLDER).iterdir()))


@pytest.mark.parametrize("change", [{"weights": True}, {"sparsity": 0.6}, {"score": "l2"}, {"examples": 40}])
def test_another_model_option_or_choice_of_examples_is_measured_anew(tiny, change):
    assert digest_changes(tiny) == 1
    assert digest_changes(tiny, **change) == 2


def test_a_changed_source_of_the_task_is_measured_anew(tiny):
    suite = tiny("mlp")
    (asked,) = columns_of(["low_rank"])[:1]
    sensitivity_of(suite.reference, suite.context(), [asked])
    (source,) = suite.task.folder.glob("*.py")
    source.write_text(source.read_text() + "\n# another loss, say\n")
    sensitivity_of(suite.reference, suite.context(), [asked])
    assert len(list((suite.task.folder / FOLDER).iterdir())) == 2


def test_a_damaged_file_is_written_anew(tiny):
    suite = tiny("mlp")
    columns = columns_of(["low_rank"])[:1]
    first = sensitivity_of(suite.reference, suite.context(), columns)
    (path,) = (suite.task.folder / FOLDER).iterdir()
    path.write_text(path.read_text()[:-20])
    again = sensitivity_of(suite.reference, suite.context(), columns)
    assert again.model_copy(update={"seconds": 0}) == first.model_copy(update={"seconds": 0})


def test_layers_that_share_a_weight_are_one_row(tiny):
    suite = tiny("tied")
    groups = groups_of(suite.reference, method_of(Step(method="weight_sharing", bits=2)), suite.context())
    assert groups["middle"] == ("middle", "again")
    assert "again" not in groups


def test_layers_that_lose_channels_together_are_one_row(tiny):
    suite = tiny("resnet")
    groups = groups_of(suite.reference, method_of(Step(method="structured_pruning")), suite.context())
    assert any(len(members) > 1 for members in groups.values())
    table = sensitivity_of(suite.reference, suite.context(), [column("structured_pruning", "pruning_ratio", 0.5)])
    treated = {name for row in table.rows if row.reason is None for name in row.members}
    alone = suite.context()
    method_of(Step(method="structured_pruning", pruning_ratio=0.5)).apply(suite.reference, alone)
    assert set(alone.notes.covered) <= treated


def test_what_a_method_ignores_has_no_row(tiny):
    suite = tiny("mlp")
    names = list(groups_of(suite.reference, method_of(Step(method="weight_sharing", bits=2)), suite.context()))
    table = sensitivity_of(
        suite.reference, suite.context(), [column("magnitude_pruning", "sparsity", 0.5, ignore=names[:1])]
    )
    assert [row.layer for row in table.rows] == names[1:]


def test_several_ignored_layers_have_no_rows(tiny):
    suite = tiny("mlp")
    method = method_of(Step(method="weight_sharing", bits=2, ignore=["first", "head"]))
    assert treatable(groups_of(suite.reference, method, suite.context()), method) == ["second"]


def test_a_method_that_cannot_be_kept_from_other_layers_is_refused(tiny):
    suite = tiny("mlp")
    with pytest.raises(CompressionError, match="sensitivity: distillation: expected an option `ignore`"):
        sensitivity_of(suite.reference, suite.context(), [column("distillation", "epochs", 1)])


def test_a_method_without_usual_strengths_is_refused_with_those_that_have_some():
    with pytest.raises(ParamsError, match=r"--method: expected one of magnitude_pruning, .*got 'distillation'"):
        columns_of(["distillation"])


def test_an_error_that_grows_is_a_drop_of_quality(tiny):
    suite = tiny(
        "mlp",
        model=f"{MODULE}:one_output",
        data=f"{MODULE}:regression",
        kind="regression",
    )
    answer_exactly(suite.reference)
    table = sensitivity_of(suite.reference, suite.context(), [column("magnitude_pruning", "sparsity", 0.95)])
    assert table.metric == "mae"
    assert [row.layer for row in table.rows] == ["first", "second", "head"]
    for row in (table.rows[0], table.rows[2]):
        assert row.loss_rise > 0, row
        assert row.quality_drop > 0, row
        assert row.outputs_moved > 0, row


def answer_exactly(model):
    """Make it the mean of the 64 pixels: neither the first layer nor the head can do with fewer weights."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.first.weight[:32:2], model.first.weight[1::2] = 1 / 64, -1 / 64
        model.second.weight.copy_(torch.eye(24, 32))
        model.head.weight[0, ::2], model.head.weight[0, 1::2] = 1 / 12, -1 / 12
