"""`waivers.yaml`: what it may say, and every way of saying it wrong."""

from datetime import date

import pytest
from pydantic import ValidationError

from compression_gate.errors import ParamsError
from compression_gate.records.params import read_params
from compression_gate.records.rules import Limit
from compression_gate.records.waivers import Waiver, read_waivers

TODAY = date(2026, 6, 1)
RELEASES = ("v1.0", "v1.1")
PARAMS = """\
task: {model: "shop:Net", data: "shop:load"}
gate:
  rules:
    accuracy: {metric: accuracy, max_drop: 0.01}
    floor: {metric: accuracy, min: 0.8}
    size: {metric: size_bytes, max: 2000}
    latency: {metric: latency_ms, max_increase: "5%"}
    classes: {metric: recall, slice: class, max_drop: 0.05}
    third: {metric: recall, slice: class=3, max_drop: 0.05}
"""
GOOD = """\
# Until the new labels are there.
- rule: accuracy
  ceiling: 0.02
  reason: the new labels come in autumn
  owner: Ana
  expires: 2026-12-31
  since: 2026-05-20
- {rule: latency, ceiling: "8%", reason: a slower runner, owner: Ben, expires: v2.0, release: true}
- {rule: size, ceiling: 2500, reason: one more class, owner: Ben, expires: "2026-06-01"}
- {rule: floor, ceiling: 0.75, reason: one more class, owner: Ben, expires: 2026-12-31}
- {rule: classes, slice: class=3, ceiling: 0.1, reason: rare, owner: Ben, expires: 2026-12-31}
- {rule: classes, slice: class, ceiling: 0.08, reason: rare, owner: Ben, expires: 2026-12-31}
- {rule: third, slice: class=3, ceiling: 0.08, reason: rare, owner: Ben, expires: 2026-12-31}
"""
FINE = {"rule": "accuracy", "ceiling": "0.02", "reason": "labels", "owner": "Ana", "expires": "2026-12-31"}

BAD = [  # what is changed in a fine waiver (None: left out), what the message says
    (
        {"rule": "acuracy"},
        r"\[0\]\.rule: expected one of gate\.rules \(accuracy, .*'acuracy' \(did you mean 'accuracy'",
    ),
    ({"rule": None}, r"\[0\]\.rule: is required and missing"),
    ({"rule": "3"}, r"\[0\]\.rule: expected the name of a rule of params\.yaml, got 3"),
    ({"ceiling": None}, r"\[0\]\.ceiling: is required and missing: expected a finite number"),
    ({"reason": None}, r"\[0\]\.reason: is required and missing"),
    ({"owner": None}, r"\[0\]\.owner: is required and missing"),
    ({"expires": None}, r"\[0\]\.expires: is required and missing: expected a date like 2026-12-31"),
    ({"reason": "''"}, r"\[0\]\.reason: expected a sentence, got ''"),
    ({"owner": "'  '"}, r"\[0\]\.owner: expected a name, got '  '"),
    ({"reson": "x"}, r"\[0\]\.reson: expected one of rule, .*'reson' \(did you mean 'reason'\?\)"),
    ({"release": "maybe"}, r"\[0\]\.release: expected true or false, got 'maybe'"),
    ({"release": "1"}, r"\[0\]\.release: expected true or false, got 1"),
    ({"slice": "class=3"}, r"\[0\]\.slice: gate\.rules\.accuracy has no slice: take this line out, got 'class=3'"),
    (
        {"rule": "classes", "slice": "clas=3", "ceiling": "0.1"},
        r"expected 'class', as .*'clas=3' \(did you mean 'class'",
    ),
    ({"rule": "classes", "slice": "class=", "ceiling": "0.1"}, r"or one of it like 'class=…', got 'class='"),
    ({"rule": "classes", "slice": "3", "ceiling": "0.1"}, r"expected a slice like 'class=3', got 3"),
    (
        {"rule": "third", "slice": "class=4", "ceiling": "0.1"},
        r"expected 'class=3', as gate\.rules\.third has it, got 'cl",
    ),
    ({"ceiling": ".nan"}, r"\[0\]\.ceiling: expected a finite number, or a share like '5%', got nan"),
    ({"ceiling": "9" * 400}, r"\[0\]\.ceiling: expected a finite number.*got 999"),
    ({"ceiling": ".inf"}, r"\[0\]\.ceiling: expected a finite number.*got inf"),
    ({"ceiling": "two points"}, r"\[0\]\.ceiling: expected a finite number.*got 'two points'"),
    ({"ceiling": "true"}, r"\[0\]\.ceiling: expected a finite number.*got True"),
    (
        {"ceiling": "0.01"},
        r"expected more than gate\.rules\.accuracy's own limit max_drop 0\.01, got 0\.01: it waives noth",
    ),
    ({"ceiling": "-0.02"}, r"expected more than gate"),
    ({"ceiling": "2"}, r"accuracy is a fraction: expected 0 to 1, got 2"),
    ({"ceiling": "2%"}, r"expected a number in the metric's own unit, as the limit max_drop 0\.01 .* got '2%'"),
    ({"rule": "latency", "ceiling": "0.08"}, r"expected a share like '8%', as the limit max_increase 5% .* got 0\.08"),
    ({"rule": "latency", "ceiling": "4%"}, r"expected more than .* limit max_increase 5%"),
    ({"rule": "floor", "ceiling": "0.85"}, r"expected less than gate\.rules\.floor's own limit min 0\.8, got 0\.85"),
    ({"rule": "size", "ceiling": "2000"}, r"expected more than .* limit max 2000"),
    ({"expires": "2026-05-31"}, r"\[0\]\.expires: expired on 2026-05-31: renew or remove it"),
    ({"expires": "v1.1"}, r"\[0\]\.expires: expired with release v1\.1: renew or remove it"),
    ({"expires": "1.1"}, r"\[0\]\.expires: expected a date.*got 1\.1"),
    ({"expires": "'1.1'"}, r"\[0\]\.expires: expired with release v1\.1: renew or remove it"),
    ({"expires": "v1.2/beta"}, r"\[0\]\.expires: expected a date.*'v1\.2/beta'"),
    ({"expires": "2026-02-30"}, r"\[0\]\.expires: expected a date like 2026-12-31, .*got '2026-02-30'"),
    ({"expires": "2026-13-01"}, r"\[0\]\.expires: expected a date"),
    ({"expires": "31.12.2026"}, r"\[0\]\.expires: expected a date.*'31\.12\.2026'"),
    ({"expires": "2026-12-31 10:00:00"}, r"\[0\]\.expires: expected a date.*'2026-12-31 10:00:00'"),
    ({"expires": "never"}, r"\[0\]\.expires: expected a date.*'never'"),
    ({"expires": "in 2 weeks"}, r"\[0\]\.expires: expected a date.*'in 2 weeks'"),
    ({"expires": "1.2"}, r"\[0\]\.expires: expected a date.*got 1\.2"),
    ({"since": "yesterday"}, r"\[0\]\.since: expected a date like 2026-01-31, got 'yesterday'"),
]
NO_LISTS = [
    ("rule: accuracy\n", r"waivers\.yaml:1: expected a list of waivers .*got dict"),
    (
        "- accuracy\n",
        r"waivers\.yaml:1: \[0\]: expected a mapping with rule, ceiling, reason, owner, expires, got 'accuracy'",
    ),
    ("- rule: [\n", r"waivers\.yaml:2: not YAML"),
    ("- {rule: accuracy, rule: size}\n", r"waivers\.yaml:1: \[0\]\.rule: is written twice"),
    (f"- {{ceiling: {'9' * 5000}}}\n", r"waivers\.yaml:1: not YAML: a value is not of its kind"),
]
EMPTY = ["", "# none\n", "[]\n", "---\n"]


@pytest.fixture
def suite(tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS)
    return tmp_path


def read(suite, text):
    (suite / "waivers.yaml").write_text(text)
    return read_waivers(suite, read_params(suite), today=TODAY, releases=RELEASES)


def waiver_text(**changes):
    values = {key: value for key, value in {**FINE, **changes}.items() if value is not None}
    return "".join(f"{'  ' if index else '- '}{key}: {value}\n" for index, (key, value) in enumerate(values.items()))


def test_waivers_are_read_in_their_order_with_the_type_a_limit_has(suite):
    waivers = read(suite, GOOD)
    assert [waiver.rule for waiver in waivers] == [
        "accuracy",
        "latency",
        "size",
        "floor",
        "classes",
        "classes",
        "third",
    ]
    assert waivers[0] == Waiver(
        rule="accuracy",
        ceiling=0.02,
        reason="the new labels come in autumn",
        owner="Ana",
        expires="2026-12-31",
        since="2026-05-20",
    )
    assert waivers[1].ceiling == Limit(value=0.08, relative=True)
    assert waivers[1].release
    assert waivers[1].expires == "v2.0"


def test_no_file_is_no_waiver(suite):
    assert read_waivers(suite, read_params(suite), today=TODAY) == ()


@pytest.mark.parametrize("text", EMPTY)
def test_empty_file_is_no_waiver(suite, text):
    assert read(suite, text) == ()


@pytest.mark.parametrize(("changes", "message"), BAD, ids=lambda value: str(value)[:40])
def test_wrong_waiver_is_told_by_line_and_key(suite, changes, message):
    with pytest.raises(ParamsError, match=message) as caught:
        read(suite, "# the first line\n" + waiver_text(**changes))
    assert len(caught.value.problems) == 1, caught.value.problems
    assert caught.value.problems[0].startswith("waivers.yaml:")


@pytest.mark.parametrize(("text", "message"), NO_LISTS, ids=lambda value: value[:30])
def test_file_that_holds_no_list_of_mappings_is_refused(suite, text, message):
    with pytest.raises(ParamsError, match=message):
        read(suite, text)


def test_every_problem_is_told_at_once_by_its_own_line(suite):
    text = waiver_text() + waiver_text(rule="sise", ceiling=".inf", expires="2020-01-01", owner=None)
    with pytest.raises(ParamsError) as caught:
        read(suite, text)
    starts = [problem.split(" ")[0] + problem.split(" ")[1] for problem in caught.value.problems]
    assert starts == [
        "waivers.yaml:6:[1].owner:",
        "waivers.yaml:6:[1].rule:",
        "waivers.yaml:7:[1].ceiling:",
        "waivers.yaml:9:[1].expires:",
    ]


@pytest.mark.parametrize("first", [{"rule": "classes"}, {"rule": "classes", "slice": "class"}])
def test_two_waivers_of_the_same_slices_are_one_too_many(suite, first):
    text = waiver_text(**first, ceiling="0.1") + waiver_text(rule="classes", slice="class", ceiling="0.2")
    with pytest.raises(ParamsError, match=r"\[1\]: says again what \[0\] says of classes: keep one of them"):
        read(suite, text)


def test_waiver_covers_on_its_last_day(suite):
    assert len(read(suite, waiver_text(expires=TODAY.isoformat()))) == 1


def test_waiver_of_a_release_to_come_is_live(suite):
    assert read(suite, waiver_text(expires="v1.2"))[0].expires == "v1.2"


def test_record_is_the_same_when_read_back(suite):
    for waiver in read(suite, GOOD):
        assert Waiver.model_validate_json(waiver.model_dump_json()) == waiver


def test_record_takes_no_ceiling_that_is_not_finite():
    with pytest.raises(ValidationError):
        Waiver(**{**FINE, "ceiling": float("nan")})
