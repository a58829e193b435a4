"""`prepare` looks at every example, tells all that is wrong at once, and writes nothing then."""

import json

import pytest

from compression_gate.errors import DataError, TaskError
from compression_gate.records.metrics import DataRecord
from compression_gate.records.params import read_params
from compression_gate.records.provenance import params_digests
from compression_gate.stages import prepare

# Code that spoils the data of one split, and what must be said of it.
NAN = "data.images[3, 0, 0, 0] = float('nan')"
FINDINGS = [
    ("test", NAN, "", r"split 'test': expected finite numbers, got NaN or infinity in 1 examples \(first: 3\)"),
    ("test", NAN.replace("nan", "-inf"), "", r"split 'test': expected finite numbers"),
    ("test", "data.targets[5] = 9", "", r"split 'test': expected labels 0 to 2, got 9: number the classes from 0"),
    ("test", "data.targets[5] = -1", "", r"split 'test': expected labels 0 to 2, got -1"),
    ("test", "data.images[1] = data.images[0]", "duplicates", r"duplicates: split 'test': .*got 1 again \(0 = 1\)"),
    ("test", "data.images[4] = Gratings(240, 5).images[0]", "leaks", r"leak: expected \w+ and test to share no input"),
    ("test", "data.targets[:] = data.targets % 2", "empty_classes", r"empty_classes: split 'test': .*got none of 2"),
    ("test", "data.images = data.images[..., 1:, :]", "", r"'test', input: .*\(1, 8, 8\) as in train, got \(1, 7, 8\)"),
    ("calibration", "data.images = data.images[:, 0]", "", r"'calibration', input: .*\(1, 8, 8\) .*, got \(8, 8\)"),
]


def spoil(suite, split, code):
    suite.append(f"\n\nEXAMPLES.setdefault({split!r}, 60)")
    suite.append(
        f"\n\nload_split = load\n\n\ndef load(split):\n    data = load_split(split)\n    if split == {split!r}:\n"
    )
    suite.append(f"        {code}\n    return data\n")


def test_record_holds_what_was_seen(suite):
    record = prepare.run(suite.path)
    assert DataRecord.read(suite.path / "reports" / "data.json") == record
    assert {name: split.n for name, split in record.splits.items()} == {
        "train": 204,
        "validation": 24,
        "calibration": 12,
        "test": 90,
    }
    test = record.splits["test"]
    assert test.input_shapes == {"input": (1, 8, 8)}
    assert test.class_counts == {"0": 30, "1": 30, "2": 30}
    low, high = test.value_range
    assert low < -1 < 1 < high
    assert (test.cut_from_train, record.splits["calibration"].cut_from_train) == (False, True)
    assert (record.leaks, record.problems) == ({}, ())
    assert record.params_digests == params_digests("prepare", read_params(suite.path))


def test_same_data_give_the_same_bytes_and_one_changed_value_another_digest(suite):
    digests = [prepare.run(suite.path).digest for _ in range(2)]
    spoil(suite, "test", "data.images[0, 0, 0, 0] += 0.5")
    assert digests[0] == digests[1] != prepare.run(suite.path).digest


def test_changed_label_changes_the_digest(suite):
    before = prepare.run(suite.path).digest
    spoil(suite, "test", "data.targets[0] = 1")
    assert prepare.run(suite.path).digest != before


@pytest.mark.parametrize(("split", "code", "allow", "expected"), FINDINGS)
def test_finding_ends_the_stage_and_leaves_no_record(suite, split, code, allow, expected):
    spoil(suite, split, code)
    with pytest.raises(DataError, match=rf"task\.data: .*{expected}") as caught:
        prepare.run(suite.path)
    assert caught.value.exit_code == 4
    assert len(str(caught.value).splitlines()) == 1
    assert not (suite.path / "reports").exists()
    if allow:
        assert f"`prepare: {{allow: [{allow}]}}`" in str(caught.value)


@pytest.mark.parametrize(("split", "code", "allow", "expected"), [case for case in FINDINGS if case[2]])
def test_finding_that_is_allowed_is_recorded_instead(suite, split, code, allow, expected):
    spoil(suite, split, code)
    suite.edit("prepare.allow", [allow])
    record = prepare.run(suite.path)
    assert record.allowed == (allow,)
    assert [allow.rstrip("s") in problem for problem in record.problems] == [True]


def test_allowing_one_kind_does_not_allow_another(suite):
    spoil(suite, "test", "data.images[1] = data.images[0]")
    suite.edit("prepare.allow", ["leaks", "empty_classes"])
    with pytest.raises(DataError, match="duplicates"):
        prepare.run(suite.path)


def test_nan_cannot_be_allowed(suite):
    spoil(suite, "test", NAN)
    suite.edit("prepare.allow", ["duplicates", "leaks", "empty_classes"])
    with pytest.raises(DataError, match="NaN or infinity"):
        prepare.run(suite.path)


def test_everything_wrong_is_told_at_once(suite):
    spoil(suite, "test", f"{NAN}; data.targets[5] = 9; data.images[1] = data.images[0]")
    with pytest.raises(DataError) as caught:
        prepare.run(suite.path)
    assert len(str(caught.value).splitlines()) == 3


def test_nan_in_a_target_of_a_regression_is_told(suite):
    suite.edit("task.kind", "regression")
    suite.append("\n\ndef item(self, index):\n    return self.images[index], float('nan') if index == 7 else 0.5\n")
    suite.append("\n\nGratings.__getitem__ = item\n")
    with pytest.raises(
        DataError, match=r"split 'test': expected finite numbers, got NaN or infinity in 1 examples \(first: 7\)"
    ):
        prepare.run(suite.path)


@pytest.mark.parametrize("target", ["'across'", "None", "0.5", "torch.zeros(2)"])
def test_target_that_is_no_class_is_told_with_its_item(suite, target):
    suite.append("\n\ndef item(self, index):\n    bad = len(self) == 90 and index == 6\n")
    suite.append(f"    return self.images[index], {target} if bad else 0\n")
    suite.append("\n\nGratings.__getitem__ = item\n")
    suite.edit("prepare.allow", ["empty_classes"])
    with pytest.raises(DataError, match=r"split 'test', item 6: expected a class number as target, got"):
        prepare.run(suite.path)


def test_dataset_that_yields_no_pairs_is_told(suite):
    suite.append("\n\nGratings.__getitem__ = lambda self, index: self.images[index]\n")
    with pytest.raises(TaskError, match=r"task\.data: split 'train', item \d+: expected a pair \(input, target\)"):
        prepare.run(suite.path)


def test_axes_that_vary_are_shown_as_such(suite):
    suite.append("\n\ndef item(self, index):\n    ids = torch.arange(index % 5 + 1) + index\n")
    suite.append("    words = {'ids': ids, 'one': torch.ones(2) * index}\n")
    suite.append("    return words, int(self.targets[index])\n\n\nGratings.__getitem__ = item\n")
    suite.edit("prepare.allow", ["leaks", "duplicates"])
    assert prepare.run(suite.path).splits["test"].input_shapes == {"ids": ("*",), "one": (2,)}


def test_axes_named_as_dynamic_may_differ_between_splits(suite):
    spoil(suite, "test", "data.images = data.images[..., 1:, :]")
    suite.edit("task.dynamic", {"input": {2: "height"}})
    assert prepare.run(suite.path).splits["test"].input_shapes == {"input": (1, 7, 8)}


# What a collate function makes of images, 8 high or, in test, 7; and whether that is refused.
JOINED = [("torch.stack(images)", True), ("torch.stack([image[:, :7] for image in images])", False)]


@pytest.mark.parametrize(("joined", "is_refused"), JOINED)
def test_shapes_are_those_that_collate_makes(suite, joined, is_refused):
    spoil(suite, "test", "data.images = data.images[..., 1:, :]")
    suite.append("\n\ndef collate(items):\n    images, targets = zip(*items)\n")
    suite.append(f"    return {joined}, torch.tensor(targets)\n")
    suite.edit("task.collate", f"{suite.module}:collate")
    if is_refused:
        with pytest.raises(DataError, match=r"'test', input: expected shape .* got \(1, 7, 8\): .*task\.dynamic"):
            prepare.run(suite.path)
    else:
        prepare.run(suite.path)


def test_leak_between_train_and_test_counts_inputs_not_labels(suite):
    spoil(suite, "test", "data.images[:6] = Gratings(240, 5).images[:6]; data.targets[:6] = 0")
    suite.edit("prepare.allow", ["leaks"])
    assert sum(prepare.run(suite.path).leaks.values()) == 6


# What a dataset may yield as (input, target), for `task.collate` to join, and the shapes on record.
FORMS = [
    ("self.images[index], (torch.ones(3, 4) * index, torch.arange(3))", {"input": (1, 8, 8)}),
    ("(self.images[index], 'a caption'), 1", {"input_0": (1, 8, 8), "input_1": ()}),
    ("{'pixels': self.images[index], 'mask': None}, 1", {"pixels": (1, 8, 8), "mask": ()}),
    ("[[index, 2], [3]], 1", {"input_0": (2,), "input_1": (1,)}),
    ("[[index, 2], [3, 4]], 1", {"input": (2, 2)}),
    ("{'x': [torch.ones(2) * index, torch.ones(3)]}, 1", {"x_0": (2,), "x_1": (3,)}),
    ("{'x': {'y': torch.ones(2) * index}}, 1", {"x.y": (2,)}),
    ("self.images[index].bfloat16(), 1", {"input": (1, 8, 8)}),
    ("self.images[index] + 0j, 1", {"input": (1, 8, 8)}),
    ("np.datetime64(index, 's'), 1", {"input": ()}),
]


def yielding(suite, item):
    """Let the dataset return ``item``, an expression of ``self`` and ``index``, equal in every split."""
    suite.append(
        f"\n\nimport numpy as np\n\n\ndef item(self, index):\n    return {item}\n\n\nGratings.__getitem__ = item\n"
    )
    suite.edit("task.kind", "regression")
    suite.edit("prepare.allow", ["leaks"])


@pytest.mark.parametrize(("item", "shapes"), FORMS)
def test_item_that_collate_is_to_join_is_read_whole(suite, item, shapes):
    yielding(suite, item)
    first, second = (prepare.run(suite.path) for _ in range(2))
    assert first.splits["test"].input_shapes == shapes
    assert first.digest == second.digest


# What is inside an item -> the same with one thing changed in every one.
CHANGES = [
    ("self.images[index], {{'mask': torch.arange(4096) == {}}}", 2000, 2001),
    ("self.images[index], (torch.arange(4096) == {}, 1)", 2000, 2001),
    ("self.images[index], [{{'box': {}}}]", 1, 2),
    ("{{'pixels': self.images[index], 'mask': {}}}, 1", None, "'left'"),
    ("(self.images[index], {}), 1", "'left'", "'right'"),
    ("self.images[index].bfloat16() * {}, 1", 1, -1),
]


@pytest.mark.parametrize(("item", "before", "after"), CHANGES)
def test_anything_changed_inside_an_item_changes_the_digest(suite, item, before, after):
    digests = []
    for value in (before, after):
        yielding(suite, item.format(value))
        digests.append(prepare.run(suite.path).digest)
    assert digests[0] != digests[1]


def test_inputs_that_differ_are_no_duplicates_whatever_stands_beside_them(suite):
    yielding(suite, "{'pixels': self.images[0], 'mask': None, 'text': str(index)}, 1")
    assert prepare.run(suite.path).splits["train"].duplicates == 0


# What cannot be read, and what is said of it.
UNREADABLE = [
    ("object(), 1", r"split 'train', item \d+: input: expected .*got object"),
    ("{'x': {1, 2}}, 1", r"input\.x: expected .*got set"),
    ("[torch.ones(2), [object()]], 1", r"input_1_0: expected .*got object"),
    ("self.images[index].to_sparse(), 1", r"input: expected .*got Tensor"),
    ("self.images[index], {'box': object()}", r"target\.box: expected .*got object"),
]


@pytest.mark.parametrize(("item", "expected"), UNREADABLE)
def test_item_of_something_else_is_told_with_its_place(suite, item, expected):
    yielding(suite, item)
    with pytest.raises(TaskError, match=rf"task\.data: .*{expected}"):
        prepare.run(suite.path)


def test_examples_with_nan_are_counted_once_however_many_arrays_have_it(suite):
    nan = "torch.full((2,), float('nan') if len(self) == 90 and index == 70 else index)"
    yielding(suite, f"({nan}, {nan}), {nan}")
    with pytest.raises(DataError, match=r"split 'test': .* in 1 examples \(first: 70\)"):
        prepare.run(suite.path)


@pytest.mark.parametrize("classes", ["None", "lambda self: 3"])
def test_dataset_without_names_of_classes_is_looked_at_all_the_same(suite, classes):
    suite.append(f"\n\nGratings.classes = {classes}\n")
    assert prepare.run(suite.path).problems == ()


def test_digest_of_images_and_labels_stays_what_it_was(suite):
    """Uses of a test split are counted by its digest."""
    spoil(suite, "test", "data.images = torch.arange(90 * 64.).view(90, 1, 8, 8)")
    digest = prepare.run(suite.path).splits["test"].digest
    assert digest == "da512f206410ecb82ae7301abb1f1a6526da128b0e9e83d09e0d06ccfeb750c0"


def test_record_is_json_without_nan(suite):
    prepare.run(suite.path)
    json.loads((suite.path / "reports" / "data.json").read_text(), parse_constant=pytest.fail)
