"""The training loop: seeded, resumable to the bit, and plain about what it cannot train."""

import copy

import pytest
import torch
from torch import nn

from compression_gate.errors import TaskError
from compression_gate.records.params import TrainParams, read_params
from compression_gate.tasks import training
from compression_gate.tasks.task import open_task
from compression_gate.tasks.training import (
    LEAST_EXAMPLES,
    Fitting,
    batches_an_epoch,
    device_of,
    fit,
    key_of,
    layout_of,
    schedule_of,
)


class Stop(Exception):  # noqa: N818  # stands for a kill, which is no error
    """Raised where a kill is meant."""


def opened(suite):
    params = read_params(suite.path)
    return open_task(params, suite.path), params.train


def trained(suite, **more):
    """Train anew and return (weights, curve)."""
    task, options = opened(suite)
    model = task.build_model()
    curve = fit(model, task, Fitting(options=options, **more))
    return model.state_dict(), curve


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def stopping(after):
    """Return an ``after_step`` that ends the process's work in step number ``after``."""
    count = iter(range(1, 10_000))

    def step(model):
        if next(count) == after:
            raise Stop

    return step


def test_task_is_learned(suite):
    suite.edit("train.epochs", 6)
    _, curve = trained(suite)
    assert [row.epoch for row in curve] == [1, 2, 3, 4, 5, 6]
    assert curve[-1].loss < curve[0].loss
    assert curve[-1].validation_quality > 0.8


@pytest.mark.parametrize("augment", [[], ["shift", "rotate", "flip", "noise", "erase"]], ids=["plain", "augmented"])
def test_same_seed_same_weights(suite, augment):
    suite.edit("train.augment", augment)
    assert equal(trained(suite)[0], trained(suite)[0])


def test_another_seed_gives_other_weights(suite):
    first, _ = trained(suite)
    suite.edit("train.seed", 2)
    assert not equal(first, trained(suite)[0])


def test_dataset_that_draws_from_any_global_generator_is_seeded_too(suite):
    suite.append(
        "\n\nimport random\nimport numpy\n\n\ndef item(self, index):\n"
        "    shift = random.random() + numpy.random.rand() + torch.rand(())\n"
        "    return self.images[index] + shift, int(self.targets[index])\n\n\nGratings.__getitem__ = item\n"
    )
    assert equal(trained(suite)[0], trained(suite)[0])


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_continued_training_ends_with_the_weights_of_an_unbroken_one(suite, tmp_path, schedule, optimizer):
    suite.edit("train", suite.read()["train"] | {"schedule": schedule, "optimizer": optimizer, "augment": ["shift"]})
    checkpoint = tmp_path / "checkpoint.pt"
    unbroken, rows = trained(suite)
    with pytest.raises(Stop):
        trained(suite, checkpoint=checkpoint, after_step=stopping(10))  # 7 steps an epoch: in the second
    assert checkpoint.exists()
    seen = []
    weights, curve = trained(suite, checkpoint=checkpoint, after_step=lambda model: seen.append(1))
    assert len(seen) == 7
    assert equal(weights, unbroken)
    assert [(row.epoch, row.loss) for row in curve] == [(row.epoch, row.loss) for row in rows]
    assert not checkpoint.exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_checkpoint_that_was_cut_short_is_not_read(suite, tmp_path, share, caplog):
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(Stop):
        trained(suite, checkpoint=checkpoint, after_step=stopping(8))
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(len(content) * share)])
    weights, curve = trained(suite, checkpoint=checkpoint)
    assert "starting over" in caplog.text
    assert len(curve) == 2
    assert equal(weights, trained(suite)[0])


@pytest.mark.parametrize("content", [[1, 2], {"key": "of another training"}], ids=["a list", "another key"])
def test_checkpoint_of_something_else_is_not_continued(suite, tmp_path, content):
    checkpoint = tmp_path / "checkpoint.pt"
    torch.save(content, checkpoint)
    assert equal(trained(suite, checkpoint=checkpoint)[0], trained(suite)[0])


def test_checkpoint_of_another_version_is_not_continued(suite, tmp_path, monkeypatch):
    checkpoint, seen = tmp_path / "checkpoint.pt", []
    with pytest.raises(Stop):
        trained(suite, checkpoint=checkpoint, after_step=stopping(10))
    monkeypatch.setattr(training, "__version__", "0.0.0")
    trained(suite, checkpoint=checkpoint, after_step=lambda model: seen.append(1))
    assert len(seen) == 14


def test_key_changes_with_options_label_and_start():
    options = TrainParams()
    variants = [
        Fitting(options=options),
        Fitting(options=TrainParams(seed=1)),
        Fitting(options=options, label="distil"),
        Fitting(options=options, key="other weights"),
    ]
    assert len({key_of(variant) for variant in variants}) == len(variants)


def test_no_epochs_change_nothing(suite):
    suite.edit("train.epochs", 0)
    weights, curve = trained(suite)
    assert curve == []
    assert equal(weights, opened(suite)[0].build_model().state_dict())


def test_model_is_left_in_eval_mode_on_the_cpu(suite):
    task, options = opened(suite)
    model = task.build_model()
    fit(model, task, Fitting(options=options))
    assert not model.training
    assert {weight.device.type for weight in model.parameters()} == {"cpu"}


def test_frozen_weights_stay(suite):
    task, options = opened(suite)
    model = task.build_model()
    model.conv.requires_grad_(False)
    before = model.conv.weight.clone()
    fit(model, task, Fitting(options=options))
    assert torch.equal(model.conv.weight, before)


def test_model_without_weights_to_train_is_told(suite):
    task, options = opened(suite)
    model = task.build_model().requires_grad_(False)
    with pytest.raises(TaskError, match=r"task\.model: expected weights to train, got none"):
        fit(model, task, Fitting(options=options))


def test_cuda_without_a_device_is_told():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(TaskError, match=r"params\.yaml: train\.device: expected a CUDA device, found none"):
        device_of(TrainParams(device="cuda"))


# What is wrong with the user's code, and what is said of it.
FAULTS = [
    ("forward", "return self.out(self.hidden(maps.flatten(1))) * float('nan')", r"expected a finite loss, got nan"),
    ("forward", "return self.out(images.flatten(1))", r"task\.model: forward\(\) of Net raised RuntimeError for input"),
    ("forward", "return [1.0]", r"task\.model: expected a tensor"),
    ("forward", "return self.out(self.hidden(maps.flatten(1))).flatten()", r"task\.loss: outputs \(96,\)"),
    ("forward", "return self.out(self.hidden(maps.flatten(1)))[:, :2]", r"task\.loss: .*0 to 2.*0 to classes - 1"),
    ("loss", "return 1.0", r"task\.loss: expected a scalar tensor, got float: return the mean"),
    ("loss", "return outputs.sum(1)", r"task\.loss: expected a scalar tensor, got shape \(32,\)"),
    ("loss", "assert False, 'never'", r"task\.loss: outputs .*: AssertionError: never \(gratings_\d+\.py:\d+\): "),
    ("loss", "return outputs.scores", r"task\.loss: outputs .*: AttributeError: .*'scores'"),
    ("loss", "return outputs.detach().mean()", r"task\.loss: .*backward\(\) raised RuntimeError: element 0"),
    ("loss", "return outputs.mean().long()", r"task\.loss: .*backward\(\) raised"),
    ("loss", "return nn.functional.mse_loss(outputs, targets)", r"task\.loss: outputs \(32, 3\), targets \(32,\) of"),
]


@pytest.mark.parametrize(("where", "body", "expected"), FAULTS)
@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")
def test_fault_of_the_users_code_is_named(suite, where, body, expected):
    if where == "forward":
        suite.replace("        return self.out(self.drop(torch.relu(self.hidden(maps.flatten(1)))))", f"        {body}")
    else:
        suite.append(f"\n\ndef own_loss(outputs, targets):\n    {body}\n")
        suite.edit("task.loss", f"{suite.module}:own_loss")
    with pytest.raises(TaskError, match=expected):
        trained(suite)


def test_targets_of_a_regression_are_not_spoken_of_as_labels(suite):
    suite.append("\n\ndef item(self, index):\n    return self.images[index], torch.ones(2)\n")
    suite.append("\n\nGratings.__getitem__ = item\n")
    suite.edit("task.kind", "regression")
    with pytest.raises(TaskError, match=r"outputs \(32, 3\), targets \(32, 2\) .*: the loss must take what the model"):
        trained(suite)


def test_label_outside_the_classes_in_validation_alone_is_told(suite):
    suite.replace('"test": 90}', '"test": 90, "validation": 30}')
    suite.append("\n\nload_split = load\n\n\ndef load(split):\n    data = load_split(split)\n")
    suite.append("    data.targets = data.targets + (7 if split == 'validation' else 0)\n    return data\n")
    with pytest.raises(TaskError, match=r"task\.loss: outputs \(30, 3\), targets \(30,\) of torch\.int64, 7 to 9"):
        trained(suite)


def test_methods_may_bring_a_loss_and_a_hook_of_their_own(suite):
    calls = []

    def loss(outputs, batch):
        calls.append(batch.positions)
        return nn.functional.cross_entropy(outputs, batch.targets)

    def keep_zero(model):
        with torch.no_grad():
            model.out.weight[:, 0] = 0

    weights, _ = trained(suite, loss=loss, after_step=keep_zero)
    assert torch.cat(calls[:7]).sort().values.tolist() == list(range(204))
    assert not weights["out.weight"][:, 0].any()


def test_regression_is_trained_and_has_no_accuracy(suite):
    suite.append("\n\nclass One(Net):\n    def forward(self, images):\n        return super().forward(images)[:, :1]\n")
    suite.edit("task.model", f"{suite.module}:One")
    suite.edit("task.kind", "regression")
    _, curve = trained(suite)
    assert [row.validation_quality for row in curve] == [None, None]
    assert curve[-1].validation_loss < 2.0


def test_bfloat16_is_taken_where_it_is_asked_for(suite):
    first, _ = trained(suite)
    suite.edit("train.precision", "bfloat16")
    second, _ = trained(suite)
    assert not equal(first, second)
    assert {value.dtype for value in second.values() if value.is_floating_point()} == {torch.float32}


def test_example_left_over_joins_the_batch_before_it(suite):
    """A norm over one example is refused by torch; 204 is 7 times 29 and one more."""
    suite.replace("nn.Dropout(dropout)", "nn.BatchNorm1d(24)")
    suite.edit("train", suite.read()["train"] | {"batch_size": 29, "epochs": 1})
    sizes = []

    def loss(outputs, batch):
        sizes.append(len(batch.positions))
        return nn.functional.cross_entropy(outputs, batch.targets)

    trained(suite, loss=loss)
    assert sizes == [29] * 6 + [30]


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 204), (29, [29] * 6 + [30]), (32, [32] * 6 + [12])])
def test_batches_are_counted_as_they_come(suite, batch_size, sizes):
    suite.edit("train.batch_size", batch_size)
    task, options = opened(suite)
    assert batches_an_epoch(task, options) == len(sizes)
    found = [len(batch.positions) for batch in task.batches("train", batch_size, least=LEAST_EXAMPLES)]
    assert found == sizes


def test_single_example_is_a_batch(suite):
    suite.replace('"train": 240', '"train": 3')
    task, options = opened(suite)
    assert len(task.split("train")) == batches_an_epoch(task, options) == 1
    assert [len(batch.positions) for batch in task.batches("train", 32, least=LEAST_EXAMPLES)] == [1]


def test_short_batch_counts_by_its_examples_in_the_curve(suite):
    _, curve = trained(suite, loss=lambda outputs, batch: outputs.sum() * 0 + len(batch.targets))
    assert curve[0].loss == pytest.approx((6 * 32 * 32 + 12 * 12) / 204)


# What cannot be trained with channels last: code that reads maps in their usual order, parameters of five axes.
CONTIGUOUS = [
    ("maps.flatten(1)", "maps.view(len(maps), -1)"),
    ("self.drop = nn.Dropout(dropout)", "self.drop = nn.Dropout(dropout)\n        self.more = nn.Conv3d(1, 2, 1)"),
]


@pytest.mark.parametrize(("old", "new"), CONTIGUOUS, ids=["view", "five axes"])
def test_network_that_channels_last_breaks_is_trained_without_it(suite, old, new):
    suite.replace(old, new)
    _, curve = trained(suite)
    assert len(curve) == 2


def test_loss_that_channels_last_breaks_is_trained_without_it(suite):
    suite.replace("return self.out(self.drop(torch.relu(self.hidden(maps.flatten(1)))))", "return maps")
    suite.append("\n\ndef energy(outputs, targets):\n    return outputs.view(len(outputs), -1).square().mean()\n")
    suite.edit("task", suite.read()["task"] | {"kind": "regression", "loss": f"{suite.module}:energy"})
    _, curve = trained(suite)
    assert curve[1].loss < curve[0].loss


def test_channels_last_is_kept_where_it_works(suite):
    task, options = opened(suite)
    model = task.build_model()
    before = copy.deepcopy(model.state_dict())
    assert layout_of(model, task, device_of(options)) is torch.channels_last
    assert equal(model.state_dict(), before)
    assert layout_of(nn.Linear(8, 3), task, device_of(options)) is torch.contiguous_format


@pytest.mark.parametrize("steps", range(1, 14))
def test_one_cycle_ends_low_after_any_number_of_steps(steps):
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    schedule = schedule_of(optimizer, TrainParams(schedule="one_cycle", learning_rate=0.1, epochs=1), steps)
    rates = []
    for _ in range(steps):
        optimizer.step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
    assert max(rates) <= 0.1
    assert rates[-1] < 0.01 or steps == 1
