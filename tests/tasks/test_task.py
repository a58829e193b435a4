"""The user's model and data, opened: what the contract asks is checked where it enters."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compression_gate.errors import DataUnreachableError, ParamsError, TaskError
from compression_gate.records.params import TaskParams, read_params
from compression_gate.tasks.task import Task, imported, open_task, seed_everything, seeded, targets_of


def opened(suite):
    return open_task(read_params(suite.path), suite.path)


class Labels(torch.utils.data.Dataset):
    """Nothing but labels: what the cuts look at."""

    def __init__(self, targets):
        self.targets = targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return torch.zeros(1), self.targets[index]


def task_over(monkeypatch, targets, *, seed=0, kind="classification"):
    """A task whose train split has these targets and whose data know no other split but test."""

    def load(split):
        return {"train": Labels(targets), "test": Labels(targets)}[split]

    monkeypatch.setattr("compression_gate.tasks.task.imported", lambda key, path: load)
    return Task(params=TaskParams(model="m:N", data="m:l", kind=kind), folder=None, seed=seed)


BAD_PATHS = [
    ("nowhere_at_all:Net", r"ModuleNotFoundError: No module named 'nowhere_at_all'"),
    ("collections:Nett", r"AttributeError: .*'Nett'"),
    ("collections:abc", r"expected a callable, got module"),
]


@pytest.mark.parametrize(("path", "expected"), BAD_PATHS)
def test_dotted_path_that_does_not_import_is_told_with_its_key(path, expected):
    with pytest.raises(ParamsError, match=rf"params\.yaml: task\.model: .*{path}.*{expected}"):
        imported("task.model", path)


def test_module_that_fails_while_it_is_imported_is_told(suite):
    suite.append("\nraise OSError('no such device')\n")
    with pytest.raises(ParamsError, match=r"task\.data: .*OSError: no such device"):
        opened(suite).split("test")


BAD_SIGNATURES = [
    ("task.model_args", {"wide": 3}, r"task\.model: .*:Net cannot be called with \(wide=3\).*task\.model_args"),
    ("task.data_args", {"folder": "x"}, r"task\.data: .*:load cannot be called with \('test', folder='x'\)"),
    ("task.data", "{module}:no_split", r"task\.data: .*:no_split cannot be called with \('test'\)"),
    ("task.loss", "{module}:one_argument", r"task\.loss: .*expected a callable\(outputs, targets\), got .*\(outputs\)"),
    ("task.loss", "torch.nn:CrossEntropyLoss", r"task\.loss: .*got a class: name a function"),
    ("task.scorer", "{module}:one_argument", r"task\.scorer: .*expected a callable\(outputs, targets\)"),
    ("task.collate", "{module}:no_split", r"task\.collate: .*expected a callable\(examples\)"),
]


@pytest.mark.parametrize(("key", "value", "expected"), BAD_SIGNATURES)
def test_callable_with_the_wrong_signature_is_told_with_its_key(suite, key, value, expected):
    suite.append("\ndef no_split():\n    pass\n\n\ndef one_argument(outputs):\n    pass\n")
    suite.edit(key, value.format(module=suite.module) if isinstance(value, str) else value)
    task = opened(suite)
    with pytest.raises(ParamsError, match=rf"params\.yaml: {expected}"):
        (task.build_model(), task.split("test"), task.loss, task.scorer, task.collate)


def test_object_may_be_the_loss(suite):
    suite.append("\ncriterion = nn.CrossEntropyLoss(label_smoothing=0.1)\n")
    suite.edit("task.loss", f"{suite.module}:criterion")
    assert opened(suite).loss(torch.zeros(2, 3), torch.tensor([0, 1])).ndim == 0


def test_factory_that_returns_no_module_is_told(suite):
    suite.edit("task.model", "collections:OrderedDict")
    with pytest.raises(TaskError, match=r"collections:OrderedDict: expected a torch\.nn\.Module, got OrderedDict"):
        opened(suite).build_model()


def test_factory_that_raises_is_named(suite):
    suite.edit("task.model_args.width", -1)
    with pytest.raises(TaskError, match=r"task\.model: .*Net\(width=-1\): raised"):
        opened(suite).build_model()


def test_same_seed_builds_the_same_weights(suite):
    first, second = (opened(suite).build_model().state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


# What the data callable returns instead of a dataset, and what is said of it.
NO_DATASETS = [
    ("return iter([])", r"expected a map-style dataset .*got list_iterator"),
    ("return {}", r"expected a map-style dataset .*got dict"),
    ("return None", r"expected a map-style dataset .*got NoneType"),
    ("return []", r"split 'test': expected examples, got none"),
    ("return Endless()", r"expected a map-style dataset .*got Endless: no length \(gratings_\d+\.py:\d+\)"),
    ("raise KeyError(split)", r"raised KeyError: 'test'"),
    ("raise RuntimeError('disk')", r"load\('test'\): raised RuntimeError: disk"),
]


@pytest.mark.parametrize(("body", "expected"), NO_DATASETS)
def test_data_callable_that_returns_no_dataset_is_told(suite, body, expected):
    suite.append("\n\nclass Endless(torch.utils.data.Dataset):\n")
    suite.append("    def __len__(self):\n        raise TypeError('no length')\n")
    suite.append(f"\n\ndef load(split):\n    {body}\n")
    with pytest.raises(TaskError, match=rf"task\.data: .*{expected}"):
        opened(suite).split("test")


UNREACHABLE = [  # what the data callable meets: no permission, no network, no file, whatever it makes of it
    "raise PermissionError('403')",
    "raise ConnectionError('no route')",
    "open('/nowhere/at/all')",
    "try: open('/nowhere/at/all')\n    except OSError as error: raise RuntimeError('no data') from error",
    "import requests; raise requests.HTTPError('401')",
]


@pytest.mark.parametrize("body", UNREACHABLE)
def test_data_that_cannot_be_had_are_told_from_code_that_is_wrong(suite, body):
    suite.append(f"\n\ndef load(split):\n    {body}\n")
    with pytest.raises(DataUnreachableError, match="could not be had"):
        opened(suite).split("test")


BAD_ITEMS = [
    ("return self.images[index]", r"split 'test', item 0: expected a pair \(input, target\), got Tensor"),
    ("return self.images[index], 1, 2", r"item 0: expected a pair .*got tuple of 3"),
    ("return self.missing", r"item 0: raised AttributeError: .*missing"),
    ("return self.images[index].bfloat16(), 1", r"expected tensors of a type that numpy has, got torch\.bfloat16"),
    ("return self.images[index], torch.ones(2).bfloat16()", r"expected tensors of a type that numpy has"),
    ("return ['grey'], 1", r"expected inputs that are a tensor, a tuple or a dict of tensors, got .*"),
    ("return self.images[index], 'across'", r"cannot join 4 examples: .*mend it|cannot join 4 examples"),
]


@pytest.mark.parametrize(("body", "expected"), BAD_ITEMS)
def test_dataset_that_yields_the_wrong_thing_is_told(suite, body, expected):
    suite.append(f"\n\ndef item(self, index):\n    {body}\n\n\nGratings.__getitem__ = item\n")
    with pytest.raises(TaskError, match=rf"task\.\w+: .*{expected}"):
        next(opened(suite).batches("test", 4))


def test_batch_of_the_wrong_length_from_getitems_is_told(suite):
    suite.append("\n\nGratings.__getitems__ = lambda self, indices: [self[indices[0]]]\n")
    with pytest.raises(TaskError, match=r"split 'test': expected 4 items from __getitems__, got 1"):
        next(opened(suite).batches("test", 4))


@pytest.mark.parametrize("target", ["'across'", "None", "torch.zeros(3)", "0.5", "float('nan')"])
def test_target_that_is_no_class_number_is_told_before_anything_is_cut(suite, target):
    suite.append(
        f"\n\ndef item(self, index):\n    return self.images[index], {target}\n\n\nGratings.__getitem__ = item\n"
    )
    suite.replace("self.targets", "self.labels")
    with pytest.raises(TaskError, match=r"task\.data: split 'train', item 0: expected a class number as target, got"):
        opened(suite).split("train")


@pytest.mark.parametrize(
    "targets", [[1, 2], np.array([1, 2]), torch.tensor([1, 2]), [torch.tensor(1), torch.tensor([2])]]
)
def test_targets_may_have_any_integer_form(targets):
    assert targets_of(Labels(targets)).tolist() == [1, 2]


NO_LABELS = ["['across'] * count", "torch.eye(3)[torch.arange(count) % 3]", "[1]", "{}", "[{'box': 1}] * count"]


@pytest.mark.parametrize("targets", NO_LABELS)
def test_targets_that_are_no_class_numbers_are_read_from_the_items(suite, targets):
    suite.replace("self.targets", "self.labels")
    suite.replace("        self.labels = ", f"        self.targets = {targets}\n        self.labels = ")
    task = opened(suite)
    assert [int(task.split("validation")[position][1]) for position in range(24)].count(0) == 8


def test_ids_are_taken_in_their_order_whatever_index_they_have(suite):
    """A column of a table that was cut by rows keeps the numbers of those rows as its index."""
    suite.append("\n\nclass Column(dict):\n    def __iter__(self):\n        return iter(self.values())\n")
    suite.append("\n\nGratings.ids = property(lambda self: Column({9 * n: f'p{n}' for n in range(len(self))}))\n")
    assert opened(suite).split("test").ids[:2] == ["p0", "p1"]


@pytest.mark.parametrize("name", ["targets", "ids"])
def test_method_that_has_the_name_of_something_offered_is_not_taken_for_it(suite, name):
    suite.replace("self.targets", "self.labels")
    suite.append(f"\n\ndef method(self):\n    return 3\n\n\nGratings.{name} = method\n")
    task = opened(suite)
    assert len(task.split("train")) == 204
    assert task.split("test").ids[0] == "test:0"


def test_property_of_the_dataset_that_raises_is_named(suite):
    suite.replace("self.targets", "self.labels")
    suite.append("\n\nGratings.targets = property(lambda self: {}['labels'])\n")
    with pytest.raises(TaskError, match=r"task\.data: Gratings\.targets: raised KeyError: 'labels'"):
        opened(suite).split("train")


def test_ids_are_the_datasets_own_where_it_has_them(suite):
    suite.append("\n\nGratings.ids = property(lambda self: [f'picture {n}' for n in range(len(self))])\n")
    assert opened(suite).split("test").ids[:2] == ["picture 0", "picture 1"]


def test_wrong_number_of_ids_is_told(suite):
    suite.append("\n\nGratings.ids = ['a']\n")
    with pytest.raises(TaskError, match=r"split 'test': expected 90 ids, got 1"):
        _ = opened(suite).split("test").ids


def test_ids_of_what_is_cut_name_the_examples_of_train(suite):
    task = opened(suite)
    cut = task.split("validation")
    assert cut.ids == [f"train:{index}" for index in cut.indices]
    ids = [name for split in ("train", "validation", "calibration") for name in task.split(split).ids]
    assert len(set(ids)) == len(ids) == 240


def test_cuts_have_the_sizes_of_the_contract(suite):
    task = opened(suite)
    sizes = {name: len(task.split(name)) for name in ("train", "validation", "calibration")}
    assert sizes == {"train": 240 - 24 - 12, "validation": 24, "calibration": 12}


def test_calibration_is_never_more_than_1024(monkeypatch):
    task = task_over(monkeypatch, [0, 1] * 15_000)
    assert len(task.split("calibration")) == 1024


FEW = [("classification", 1), ("classification", 2), ("regression", 1), ("regression", 2)]


@pytest.mark.parametrize(("kind", "count"), FEW)
def test_cuts_that_leave_nothing_to_train_on_are_refused(monkeypatch, kind, count):
    task = task_over(monkeypatch, [0] * count, kind=kind)
    expected = rf"expected more than 2 examples, since validation and calibration are cut from train, got {count}: "
    with pytest.raises(TaskError, match=rf"task\.data: split 'train': {expected}"):
        task.split("train")


def test_three_examples_are_enough_to_cut_from(monkeypatch):
    task = task_over(monkeypatch, [0, 1, 2])
    assert [len(task.split(name)) for name in ("validation", "calibration", "train")] == [1, 1, 1]


def test_data_without_targets_are_read_once_to_be_cut(suite):
    suite.replace("self.targets", "self.labels")
    suite.append("\n\nREAD = []\nitem = Gratings.__getitem__\n")
    suite.append("Gratings.__getitem__ = lambda self, index: READ.append(index) or item(self, index)\n")
    task = opened(suite)
    task.split("train")
    assert imported("task.data", f"{suite.module}:READ.copy")() == list(range(240))


def test_split_that_the_data_have_is_taken_as_it_is(suite):
    suite.replace('"test": 90}', '"test": 90, "validation": 30}')
    task = opened(suite)
    assert (len(task.split("validation")), task.split("validation").cut_from_train) == (30, False)
    assert (len(task.split("train")), len(task.split("calibration"))) == (240 - 12, 12)


def test_holdout_that_is_not_there_is_a_key_error(suite):
    with pytest.raises(KeyError):
        opened(suite).split("holdout")


def test_cuts_do_not_depend_on_the_order_of_asking(suite):
    first, second = opened(suite), opened(suite)
    order = ("train", "validation", "calibration")
    forward = {name: first.split(name).indices.tolist() for name in order}
    backward = {name: second.split(name).indices.tolist() for name in reversed(order)}
    assert forward == backward


@given(targets=st.lists(st.integers(-3, 3) | st.just(10**12), min_size=30, max_size=200), seed=st.integers(0, 2**40))
def test_cuts_are_disjoint_whole_seeded_and_stratified(targets, seed):
    with pytest.MonkeyPatch.context() as patch:
        splits = [task_over(patch, targets, seed=seed).opened("train") for _ in range(2)]
    first, second = ({name: split.indices.tolist() for name, split in each.items()} for each in splits)
    assert first == second
    assert sorted(index for indices in first.values() for index in indices) == list(range(len(targets)))
    assert len(first["validation"]) == round(len(targets) * 0.1)
    labels = np.asarray(targets)
    for label in set(targets):
        share, size = int((labels[first["validation"]] == label).sum()), int((labels == label).sum())
        # Half an example for its own rounding, and its part of what the others' roundings leave to be taken.
        assert abs(share - 0.1 * size) <= 0.5 + (len(set(targets)) + 1) / 2 * size / len(targets)


def test_another_seed_cuts_otherwise(monkeypatch):
    cuts = [task_over(monkeypatch, [0, 1] * 50, seed=seed).split("validation").indices.tolist() for seed in (0, 1)]
    assert cuts[0] != cuts[1]


def test_regression_is_cut_without_looking_at_the_targets(monkeypatch):
    task = task_over(monkeypatch, [index / 7 for index in range(40)], kind="regression")
    assert [len(task.split(name)) for name in ("validation", "calibration", "train")] == [4, 2, 34]


def test_seeded_block_draws_the_same_and_leaves_no_trace():
    def drawn():
        return random.random(), np.random.rand(), float(torch.rand(()))

    seed_everything(1)
    expected = drawn()
    seed_everything(1)
    blocks = []
    for _ in range(2):
        with seeded(5):
            blocks.append(drawn())
    assert drawn() == expected
    assert blocks[0] == blocks[1] != expected


def test_shuffled_batches_hold_every_example_once_and_follow_the_seed(suite):
    task = opened(suite)
    runs = [[batch.positions for batch in task.batches("test", 32, shuffle_seed=seed)] for seed in (3, 3, 4)]
    orders = [torch.cat(run).tolist() for run in runs]
    assert sorted(orders[0]) == list(range(90))
    assert orders[0] == orders[1] != orders[2]


VARIED = """

class Words(torch.utils.data.Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, index):
        return {"ids": torch.arange(index % 4 + 1)}, index % 3


def words(split):
    return Words()


def padded(examples):
    ids = nn.utils.rnn.pad_sequence([item["ids"] for item, _ in examples], batch_first=True)
    return {"ids": ids, "mask": ids > 0}, torch.tensor([target for _, target in examples])
"""


def test_inputs_of_various_lengths_need_collate_and_are_joined_by_it(suite):
    suite.append(VARIED)
    suite.edit("task.data", f"{suite.module}:words")
    with pytest.raises(TaskError, match=r"task\.collate: split 'test': cannot join 4 examples: .*need task\.collate"):
        next(opened(suite).batches("test", 4))
    suite.edit("task.collate", f"{suite.module}:padded")
    batch = next(opened(suite).batches("test", 4))
    assert {name: tuple(value.shape) for name, value in batch.inputs.items()} == {"ids": (4, 4), "mask": (4, 4)}
    assert batch.targets.tolist() == [0, 1, 2, 0]


def test_collate_that_returns_no_pair_is_told(suite):
    suite.append("\n\ndef lonely(examples):\n    return torch.zeros(3)\n")
    suite.edit("task.collate", f"{suite.module}:lonely")
    with pytest.raises(TaskError, match=r"task\.collate: split 'test': cannot join"):
        next(opened(suite).batches("test", 4))


# What a collate function raises or returns, and what is said of it.
COLLATES = [
    ("return {}['ids']", r"cannot join 4 examples: KeyError: 'ids'"),
    ("return [][3]", r"cannot join 4 examples: IndexError"),
    ("assert not examples, 'of one length'", r"cannot join 4 examples: AssertionError: of one length"),
    ("return torch.zeros(3), torch.zeros(3)", r"expected 4 targets, got 3: keep every example"),
    ("return torch.zeros(4), torch.tensor(1)", r"expected 4 targets, got a single value: keep every example"),
    ("return {'ids': torch.zeros(4), 'text': ['a'] * 4}, [0] * 4", r"expected inputs that are .*got list"),
]


@pytest.mark.parametrize(("body", "expected"), COLLATES)
def test_collate_that_fails_is_told(suite, body, expected):
    suite.append(f"\n\ndef own(examples):\n    {body}\n")
    suite.edit("task.collate", f"{suite.module}:own")
    with pytest.raises(TaskError, match=rf"task\.\w+: split 'test': {expected}"):
        next(opened(suite).batches("test", 4))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_examples_that_hang_on_weights_are_given_without_them(suite, batch_size):
    suite.append("\n\ndef embedded(split):\n    weight = torch.ones(3, requires_grad=True)\n")
    suite.append("    return [(weight * i, i % 3) for i in range(8)]\n")
    suite.edit("task.data", f"{suite.module}:embedded")
    batch = next(opened(suite).batches("test", batch_size))
    assert batch.inputs.numpy().shape == (batch_size, 3)


def test_collate_may_return_any_mapping(suite):
    suite.append("\n\nfrom collections import UserDict\n\n\ndef own(examples):\n")
    suite.append("    return UserDict(images=torch.stack([image for image, _ in examples])), [0] * len(examples)\n")
    suite.edit("task.collate", f"{suite.module}:own")
    inputs = opened(suite).example_inputs(4)
    assert (type(inputs), inputs["images"].shape) == (dict, (4, 1, 8, 8))


def test_custom_kind_without_a_loss_says_so_when_it_is_needed(suite):
    suite.edit("task.kind", "custom")
    suite.edit("task.scorer", f"{suite.module}:load")
    with pytest.raises(
        ParamsError, match=r"task\.loss: expected a callable\(outputs, targets\) for kind custom, got none"
    ):
        _ = opened(suite).loss
