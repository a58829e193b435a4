"""The forms a model's inputs and outputs may take."""

from collections import UserDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from compression_gate.errors import CompressionError, TaskError
from compression_gate.tasks.calling import Positional, call, moved, named, output_of

VALUES = torch.arange(6.0).view(2, 3)
Answer = namedtuple("Answer", ["logits", "hidden"])
FORMS = [
    VALUES,
    (VALUES, torch.zeros(1)),
    [VALUES],
    {"logits": VALUES, "loss": None},
    UserDict(logits=VALUES),
    SimpleNamespace(logits=VALUES),
    Answer(logits=VALUES, hidden=torch.zeros(1)),
]


class Answering(nn.Module):
    """Returns what it was made with."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, inputs):
        return self.answer


class Sum(nn.Module):
    """Takes two inputs by name."""

    def forward(self, left, right):
        return SimpleNamespace(logits=left - right)


@pytest.mark.parametrize("answer", FORMS, ids=lambda answer: type(answer).__name__)
def test_output_is_found_in_every_form_of_the_contract(answer):
    assert torch.equal(call(Answering(answer), torch.zeros(2)), VALUES)


@pytest.mark.parametrize("answer", [None, (), "logits", {"scores": VALUES}, (None, VALUES), SimpleNamespace(logits=3)])
def test_output_without_a_tensor_is_told(answer):
    with pytest.raises(TaskError, match=r"task\.model: expected a tensor.* got \w+: return one of these from forward"):
        output_of(answer)


def test_dict_is_given_by_name_and_tuple_by_position():
    one, two = torch.ones(2), torch.zeros(2)
    assert call(Sum(), {"right": one, "left": two}).tolist() == [-1, -1]
    assert call(Sum(), (one, two)).tolist() == [1, 1]


def test_model_that_does_not_take_the_inputs_is_told_with_names_and_shapes():
    with pytest.raises(
        TaskError, match=r"forward\(\) of Sum raised TypeError for left \(2,\) torch\.float32: .*'right'"
    ):
        call(Sum(), {"left": torch.ones(2)})
    with pytest.raises(TaskError, match=r"forward\(\) of Linear raised RuntimeError for input \(2, 4\) torch\.float32"):
        call(nn.Linear(3, 1), torch.ones(2, 4))


class Refusing(nn.Module):
    """Raises what it was made with."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, inputs):
        raise self.error


@pytest.mark.parametrize("error", [AssertionError("five"), NotImplementedError("five"), ZeroDivisionError("five")])
def test_whatever_forward_raises_is_told(error):
    with pytest.raises(TaskError, match=rf"forward\(\) of Refusing raised {type(error).__name__} for input .*: five"):
        call(Refusing(error), torch.ones(2))


def test_an_error_of_ours_passes_through_forward_as_it_is():
    with pytest.raises(CompressionError, match=r"^five$"):
        call(Refusing(CompressionError("five")), torch.ones(2))


def test_line_of_the_users_code_is_named_not_that_of_a_library(tmp_path, monkeypatch):
    (tmp_path / "shallow.py").write_text(
        "from torch import nn\n\nclass Shallow(nn.Linear):\n"
        "    def forward(self, inputs):\n        return super().forward(inputs)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from shallow import Shallow

    with pytest.raises(TaskError, match=r"cannot be multiplied .* \(shallow\.py:5\): mend the model"):
        call(Shallow(3, 1), torch.ones(2, 4))


def test_error_of_a_library_alone_has_no_line():
    with pytest.raises(TaskError, match=r"cannot be multiplied \([^(]*\): mend the model"):
        call(nn.Linear(3, 1), torch.ones(2, 4))


def test_names_are_those_of_the_exported_file():
    assert list(named(VALUES)) == ["input"]
    assert list(named((VALUES, VALUES))) == ["input_0", "input_1"]
    assert list(named({"ids": VALUES})) == ["ids"]


def test_positional_takes_the_inputs_of_a_dict_in_its_order():
    inputs = {"right": torch.ones(2), "left": torch.zeros(2)}
    assert Positional(Sum(), inputs)(*inputs.values()).tolist() == [-1, -1]
    assert Positional(Sum(), (torch.ones(2), torch.zeros(2)))(torch.ones(2), torch.zeros(2)).tolist() == [1, 1]


@pytest.mark.parametrize("inputs", [VALUES, (VALUES, VALUES), {"ids": VALUES}], ids=["tensor", "tuple", "dict"])
def test_inputs_keep_their_form_when_they_are_moved(inputs):
    there = moved(inputs, "meta")
    assert type(there) is type(inputs)
    assert all(value.device.type == "meta" for value in named(there).values())
