"""Normalisation is part of the model, so it ships with it."""

import pytest
import torch
from torch import nn

from compression_gate.errors import TaskError
from compression_gate.modules.normalized import Normalized, unnormalized_shell
from compression_gate.records.params import read_params
from compression_gate.stages.train import normalized
from compression_gate.tasks.task import open_task


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 7), (5, 3, 4, 4), (5, 3, 2, 2, 2)])
def test_each_channel_has_its_own_statistics(shape):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    mean, deviation = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 2.0])
    result = Normalized(nn.Identity(), mean, deviation)(values)
    for channel in range(3):
        assert torch.allclose(result[:, channel], (values[:, channel] - mean[channel]) / deviation[channel])


def test_shell_changes_nothing():
    values = torch.randn(2, 3)
    assert torch.equal(unnormalized_shell(nn.Identity(), 3)(values), values)


def test_further_inputs_pass_untouched():
    class Pair(nn.Module):
        def forward(self, first, second):
            return first, second

    first, second = Normalized(Pair(), torch.ones(2), torch.ones(2))(torch.ones(1, 2), torch.ones(1))
    assert (first.tolist(), second.tolist()) == ([[0, 0]], [1])


def test_statistics_are_saved_with_the_weights():
    names = set(Normalized(nn.Linear(1, 1), torch.zeros(1), torch.ones(1)).state_dict())
    assert names == {"mean", "deviation", "model.weight", "model.bias"}


def test_statistics_are_those_of_the_train_split_alone(suite):
    suite.edit("train.normalize", True)
    suite.append("\n\nload_split = load\n\n\ndef load(split):\n    data = load_split(split)\n")
    suite.append("    data.images = data.images * 2 + 5 if split == 'train' else data.images - 99\n    return data\n")
    params = read_params(suite.path)
    task = open_task(params, suite.path)
    model = normalized(task.build_model(), task, params)
    images = torch.stack(
        [image for image, _ in (task.split("train")[index] for index in range(len(task.split("train"))))]
    )
    assert model.mean.item() == pytest.approx(images.mean().item(), abs=1e-4)
    assert model.deviation.item() == pytest.approx(images.std(correction=0).item(), abs=1e-4)


def test_constant_channel_does_not_divide_by_zero(suite):
    suite.edit("train.normalize", True)
    suite.replace("self.images = (", "self.images = 0 * (")
    params = read_params(suite.path)
    task = open_task(params, suite.path)
    model = normalized(task.build_model(), task, params)
    assert torch.isfinite(model(task.example_inputs(4))).all()


@pytest.mark.parametrize("item", ["{'a': self.images[index], 'b': self.images[index]}, 0", "torch.tensor(3), 0"])
def test_inputs_that_have_no_channels_are_refused_by_key(suite, item):
    suite.edit("train.normalize", True)
    suite.append(f"\n\ndef item(self, index):\n    return {item}\n\n\nGratings.__getitem__ = item\n")
    params = read_params(suite.path)
    task = open_task(params, suite.path)
    with pytest.raises(TaskError, match=r"params\.yaml: train\.normalize: expected one float input \(N, C, …\)"):
        normalized(task.build_model(), task, params)
