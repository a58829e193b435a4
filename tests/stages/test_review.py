"""`review`: real commits with recorded runs; what moved, which commit did it, how far it is from the release."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from repositories import PARAMS, Shop, git
from typer.testing import CliRunner

from compression_gate.cli import app
from compression_gate.errors import ParamsError
from compression_gate.history import store
from compression_gate.records.verdict import Check, Verdict
from compression_gate.stages import review

HERE = {"processor": "one"}


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """An empty suite in a git checkout."""
    root = tmp_path / "shop"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    (root / "params.yaml").write_text(PARAMS)
    return Shop(root)


def verdict(status: str, environment: dict[str, str]) -> Verdict:
    rule = Check(rule="size", metric="size_bytes", status=status)
    slices = [Check(rule="classes", metric="recall", slice=f"class={n}", status="pass") for n in range(3)]
    return Verdict(
        status=status,
        exit_code=0 if status == "pass" else 1,
        policy="pull_request",
        checks=(rule, *slices),
        params_digest="p",
        sources_digest="s",
        package_version="0",
        environment=environment,
    )


def ran(
    shop: Shop, text: str, accuracy: float, latency_ms: float, *, status: str = "pass", environment=HERE, **more
) -> str:
    """A commit with its recorded run."""
    commit = shop.commit(text)
    figures = {"accuracy": accuracy, "latency_ms": latency_ms}
    shop.record(
        commit, name=text, status=status, metrics={"candidate": figures}, verdict=verdict(status, environment), **more
    )
    return commit


@pytest.fixture
def history(shop: Shop) -> list[str]:
    """Five commits: a release, a loss, a commit without a record, a failure, a recovery on another machine."""
    return [
        ran(shop, "first", 0.91, 1.0, release="1.0"),
        ran(shop, "narrower", 0.90, 0.8),
        shop.commit("docs"),
        ran(shop, "too far", 0.87, 0.9, status="fail"),
        ran(shop, "back", 0.905, 2.0, environment={"processor": "another"}),
    ]


def test_trend_names_the_commit_of_the_largest_step_for_the_worse(shop: Shop, history: list[str]) -> None:
    found, _ = review.run(shop.suite)
    accuracy, latency = found.trends
    assert accuracy.values == (0.91, 0.90, 0.87, 0.905)
    assert (accuracy.first, accuracy.last, accuracy.comparable) == (0.91, 0.905, True)
    assert accuracy.worst_commit == history[3]
    assert accuracy.worst_step == pytest.approx(-0.03)
    assert latency.worst_commit == history[3]  # the step to another machine says nothing
    assert latency.worst_step == pytest.approx(0.1)
    assert not latency.comparable


def test_every_change_of_verdict_has_its_commit(shop: Shop, history: list[str]) -> None:
    found, _ = review.run(shop.suite)
    assert [(change.commit, change.rule, change.before, change.after) for change in found.changes] == [
        (history[3], None, "pass", "fail"),
        (history[3], "size", "pass", "fail"),
        (history[4], None, "fail", "pass"),
        (history[4], "size", "fail", "pass"),
    ]


def test_drift_is_counted_from_the_last_release(shop: Shop, history: list[str]) -> None:
    found, text = review.run(shop.suite)
    assert found.release == "1.0"
    assert [(drift.metric, drift.released, drift.now, drift.comparable) for drift in found.drift] == [
        ("accuracy", 0.91, 0.905, True),
        ("latency_ms", 1.0, 2.0, False),
    ]
    assert "| accuracy, % | 91.00 | 90.50 | −0.50 |" in text
    assert "| latency\\_ms | 1.00 | 2.00 | several machines |" in text


def test_only_commits_from_since_on_are_looked_at(shop: Shop, history: list[str]) -> None:
    found, text = review.run(shop.suite, since=history[1][:12])
    assert [run.commit for run in found.runs] == [history[1], history[3], history[4]]
    assert found.unrecorded == 1
    assert found.release == "1.0"  # drift is from the last release, wherever that lies
    assert f"from {history[1][:10]} up to {history[4][:10]}" in text
    assert "1 commits without a recorded run" in text


def test_runs_of_other_branches_are_left_out(shop: Shop, history: list[str]) -> None:
    shop.git("checkout", "-q", "-b", "aside", history[1])
    ran(shop, "aside", 0.5, 1.0)
    shop.git("checkout", "-q", "main")
    found, _ = review.run(shop.suite)
    assert "aside" not in [run.subject for run in found.runs]


def test_damaged_record_is_told_and_the_others_are_shown(shop: Shop, history: list[str], monkeypatch) -> None:
    blob = shop.git("hash-object", "-w", "params.yaml")
    entries = store.entries(shop.git("rev-parse", store.REF), shop.root) | {f"_root/{history[1]}.json": blob}
    store.moved(store.committed(entries, [], "damaged", shop.root), store.git.resolved(store.REF, shop.root), shop.root)
    found, text = review.run(shop.suite)
    assert [run.commit for run in found.runs] == [history[0], history[3], history[4]]
    assert "damaged, or of another version" in text


def clone(shop: Shop, depth: int) -> Shop:
    """A shallow clone that has fetched the records."""
    clone = shop.clone(f"of-{depth}", "--depth", str(depth))
    clone.git("fetch", "-q", "origin", f"{store.REF}:{store.REF}")
    return clone


CUT = "this clone is shallow, and earlier runs and releases are not seen: git fetch --unshallow"
# Commits of the clone, where the review begins in it, and whether something lies behind its end.
DEPTHS = [(1, None, True), (4, None, True), (4, 2, True), (9, None, False)]


@pytest.mark.parametrize(("depth", "since", "cut"), DEPTHS)
def test_review_that_a_shallow_clone_cuts_short_says_so(shop: Shop, history, depth: int, since, cut: bool) -> None:
    """From a commit on, the range may be whole and the release behind it out of sight."""
    begin = None if since is None else history[since]
    found, text = review.run(clone(shop, depth).suite, since=begin)
    assert found.notices == ((CUT,) if cut else ())
    assert ("git fetch --unshallow" in text) is cut


def test_since_behind_the_end_of_a_shallow_clone_is_told_with_the_line_that_mends_it(shop: Shop, history) -> None:
    """Its commit is there, and the way to it is not."""
    part = clone(shop, 2)
    part.git("fetch", "-q", "--depth", "1", "origin", history[1])
    with pytest.raises(ParamsError, match=r"--since: expected a commit before .*: git fetch --unshallow, or name"):
        review.run(part.suite, since=history[1])


def test_range_that_is_whole_is_not_cut_short_by_a_clone_that_is_not(shop: Shop, history: list[str]) -> None:
    last = ran(shop, "again", 0.9, 1.0, release="1.1")
    assert review.run(clone(shop, 2).suite, since=last)[0].notices == ()


def test_nothing_recorded_is_told(shop: Shop) -> None:
    shop.commit("first")
    found, text = review.run(shop.suite)
    assert found.runs == ()
    assert text.startswith("# shop: no recorded run\n")


WRONG = [("nonsense", "expected a commit that this clone has"), ("aside", "expected a commit before")]


@pytest.mark.parametrize(("since", "said"), WRONG)
def test_since_that_is_no_commit_before_this_one_is_refused(shop: Shop, history, since: str, said: str) -> None:
    shop.git("checkout", "-q", "-b", "aside", history[1])
    shop.commit("aside")
    shop.git("checkout", "-q", "main")
    with pytest.raises(ParamsError, match=said):
        review.run(shop.suite, since=since)


def test_folder_without_git_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="expected a git checkout"):
        review.run(tmp_path)


def test_folder_in_place_of_the_page_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=f"-o: expected a file, got the folder {tmp_path}"):
        review.run(tmp_path, output=tmp_path)


def test_page_that_cannot_be_written_is_told(shop: Shop, history: list[str]) -> None:
    with pytest.raises(ParamsError, match=r"-o: .*params\.yaml/page\.md: cannot be written: .*: name another file"):
        review.run(shop.suite, output=shop.root / "params.yaml/page.md")


def called(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_command_prints_markdown_or_json_and_writes_a_page(shop: Shop, history: list[str]) -> None:
    assert called("review", "-C", shop.suite).stdout.startswith("# shop: 3 of 4 runs passed, the last: pass\n")
    assert json.loads(called("review", "-C", shop.suite, "--json").stdout)["runs"][0]["commit"] == history[0]
    for name, begin in (("review.html", "<!doctype html>"), ("review.md", "# shop")):
        assert called("review", "-C", shop.suite, "--output", shop.root / name).exit_code == 0
        assert (shop.root / name).read_text(encoding="utf-8").startswith(begin)


@pytest.mark.parametrize("subject", ["déjà vu", "one\u2028two", "tab\tin it"])
def test_subject_is_read_whole_whatever_git_prints_to_people(shop: Shop, subject: str) -> None:
    shop.git("config", "i18n.logOutputEncoding", "ISO-8859-1")
    ran(shop, "first", 0.9, 1.0)
    commit = shop.commit(subject)
    shop.record(commit)
    assert [run.subject for run in review.run(shop.suite)[0].runs] == ["first", subject]


def test_what_a_commit_is_called_stays_text(shop: Shop) -> None:
    ran(shop, "<script>alert(1)</script> @all | x", 0.9, 1.0)
    called("review", "-C", shop.suite, "--output", shop.root / "review.html")
    page, (_, text) = (shop.root / "review.html").read_text(encoding="utf-8"), review.run(shop.suite)
    assert page.count("<script>") == 1
    assert "<script>" not in text
    assert "@all" not in text
