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
]


def spoil(suite, split, code):
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


def test_leak_between_train_and_test_counts_inputs_not_labels(suite):
    spoil(suite, "test", "data.images[:6] = Gratings(240, 5).images[:6]; data.targets[:6] = 0")
    suite.edit("prepare.allow", ["leaks"])
    assert sum(prepare.run(suite.path).leaks.values()) == 6


def test_record_is_json_without_nan(suite):
    prepare.run(suite.path)
    json.loads((suite.path / "reports" / "data.json").read_text(), parse_constant=pytest.fail)
