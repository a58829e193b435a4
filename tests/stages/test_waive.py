"""`waive` appends one waiver, or changes nothing."""

import subprocess
import threading

import pytest

from compression_gate.errors import ParamsError
from compression_gate.records.history import History
from compression_gate.records.params import read_params
from compression_gate.records.waivers import read_waivers, today_utc
from compression_gate.stages.waive import Request, run

PARAMS = """\
task: {model: "shop:Net", data: "shop:load"}
gate:
  rules:
    accuracy: {metric: accuracy, max_drop: 0.01}
    size: {metric: size_bytes, max: 2000}
    latency: {metric: latency_ms, max_increase: "5%"}
    classes: {metric: recall, slice: class, max_drop: 0.05}
"""
OLD = "{rule: size, ceiling: 2500, reason: one more class, owner: Ben, expires: 2999-12-31}"
FILES = [  # what is there before, what it has become of that
    ("", ""),
    ("# ours\n", "# ours\n"),
    ("---\n", "---\n"),
    ("[]\n", "\n"),
    ("~\n", "\n"),
    ("# ours\nnull\n", "# ours\n\n"),
    ("---\n...\n", "---\n"),
    (f"- {OLD}\n...\n# the end\n", f"- {OLD}\n"),
    ("# none now\n[]   # yet\n", "# none now\n# yet\n"),
    (f"- {OLD}\n", f"- {OLD}\n"),
    (f"- {OLD}", f"- {OLD}\n"),
    (f"# ours\n- {OLD}   # till autumn\n\n# the end\n", f"# ours\n- {OLD}   # till autumn\n\n# the end\n"),
    (f"  - {OLD}\n", f"  - {OLD}\n"),
    (f"# ours\r\n- {OLD}\r\n", f"# ours\r\n- {OLD}\r\n"),
]
WRONG = [  # options, what is told
    ({"rule": "acuracy"}, r"waive: RULE: expected one of gate\.rules .*did you mean 'accuracy'"),
    ({"ceiling": "two"}, r"waive: --ceiling: expected a finite number.*got 'two'"),
    ({"ceiling": "nan"}, r"waive: --ceiling: expected a finite number"),
    ({"ceiling": "1e999"}, r"waive: --ceiling: expected a finite number"),
    ({"ceiling": "0.01"}, r"waive: --ceiling: expected more than .* limit max_drop 0\.01"),
    ({"ceiling": "2%"}, r"waive: --ceiling: expected a number in the metric's own unit"),
    ({"reason": " "}, r"waive: --reason: expected a sentence"),
    ({"expires": "2020-01-01"}, r"waive: --expires: expired on 2020-01-01"),
    ({"expires": "never"}, r"waive: --expires: expected a date"),
    ({"expires": "v1.0"}, r"waive: --expires: expired with release v1\.0"),
    ({"slice": "class=3"}, r"waive: --slice: gate\.rules\.accuracy has no slice"),
]
BAD_FILES = [
    (f"[{OLD}]\n", r"waivers\.yaml:1: expected waivers that begin with '- '.*add this one by hand:\n- rule: accuracy"),
    ("rule: accuracy\n", r"waivers\.yaml:1: expected waivers that begin with '- '"),
    ("- rule: [\n", r"waivers\.yaml: cannot be read as YAML"),
    ("- {rule: size}\n", r"waivers\.yaml:1: \[0\]\.ceiling: is required and missing"),
    ("{}\n", r"waivers\.yaml:1: expected waivers that begin with '- '"),
    ("''\n", r"waivers\.yaml:1: expected waivers that begin with '- '"),
    (
        "- {rule: accuracy, ceiling: 0.03, reason: labels, owner: Ben, expires: 2999-12-31}\n",
        r"\[1\]: says again what \[0\] says of accuracy",
    ),
]


@pytest.fixture
def suite(tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / ".compression_gate").mkdir()
    History(releases=("v1.0",)).write(tmp_path / ".compression_gate/history.json")
    return tmp_path


def request(**changes):
    values = {
        "rule": "accuracy",
        "ceiling": "0.02",
        "reason": "labels: in autumn",
        "expires": "2999-12-31",
        "owner": "Ana",
    }
    return Request(**{**values, **changes})


def read(suite):
    return read_waivers(suite, read_params(suite), today=today_utc(), releases=("v1.0",))


@pytest.mark.parametrize(("before", "kept"), FILES, ids=lambda text: repr(text)[:30])
def test_waiver_is_put_behind_what_is_there(suite, before, kept):
    path = suite / "waivers.yaml"
    if before:
        path.write_bytes(before.encode())
    assert run(suite, request()) == path
    assert path.read_bytes().startswith(kept.encode())
    assert path.read_bytes()[len(kept.encode()) :].lstrip(b" ").startswith(b"- rule: accuracy")
    *others, new = read(suite)
    assert len(others) == before.count("rule:")
    assert (new.rule, str(new.ceiling), new.reason, new.owner) == ("accuracy", "0.02", "labels: in autumn", "Ana")
    assert new.since == today_utc().isoformat()


def test_two_at_once_lose_no_waiver(suite):
    rules = {"accuracy": "0.02", "size": "2500", "latency": "8%", "classes": "0.1"}
    jobs = [threading.Thread(target=run, args=(suite, request(rule=rule, ceiling=rules[rule]))) for rule in rules]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert {waiver.rule for waiver in read(suite)} == set(rules)


def test_all_that_is_asked_for_is_written(suite):
    run(suite, request(rule="classes", slice="class=3", ceiling="0.1", expires="v1.1", release=True))
    run(suite, request(rule="latency", ceiling="8%", reason="a slower\n runner"))
    run(suite, request(rule="size", ceiling="2500"))
    assert (suite / "waivers.yaml").read_text() == (
        "- rule: classes\n  slice: class=3\n  ceiling: 0.1\n  reason: 'labels: in autumn'\n  owner: Ana\n"
        f"  expires: v1.1\n  release: true\n  since: {today_utc()}\n"
        "- rule: latency\n  ceiling: 8%\n  reason: a slower runner\n  owner: Ana\n"
        f"  expires: 2999-12-31\n  since: {today_utc()}\n"
        "- rule: size\n  ceiling: 2500\n  reason: 'labels: in autumn'\n  owner: Ana\n"
        f"  expires: 2999-12-31\n  since: {today_utc()}\n"
    )
    assert len(read(suite)) == 3


@pytest.mark.parametrize(("options", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_option_is_named_and_nothing_is_written(suite, options, message):
    with pytest.raises(ParamsError, match=message):
        run(suite, request(**options))
    assert not (suite / "waivers.yaml").exists()


@pytest.mark.parametrize(("text", "message"), BAD_FILES, ids=lambda text: text[:30])
def test_file_that_would_not_be_read_back_stays_as_it_was(suite, text, message):
    (suite / "waivers.yaml").write_text(text)
    with pytest.raises(ParamsError, match=message):
        run(suite, request())
    assert (suite / "waivers.yaml").read_text() == text
    assert sorted(path.name for path in suite.iterdir()) == [".compression_gate", "params.yaml", "waivers.yaml"]


def test_owner_is_who_git_says_commits(suite, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    subprocess.run(["git", "init", "-q", str(suite)], check=True)
    subprocess.run(["git", "-C", str(suite), "config", "user.name", "Änne"], check=True)
    run(suite, request(owner=None))
    assert read(suite)[0].owner == "Änne"


def test_without_owner_and_git_name_the_option_is_named(suite, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    with pytest.raises(ParamsError, match=r"--owner: expected a name.*give --owner NAME"):
        run(suite, request(owner=None))


def test_without_git_the_option_is_named(suite, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ParamsError, match="--owner"):
        run(suite, request(owner=None))
