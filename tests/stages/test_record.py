"""`record`: only what was judged, of these very files, at a commit that holds them, gets into the history."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from finished_run import finished
from repositories import Shop, git, put_in_cache

from compression_gate.errors import HistoryError, MetricsError, ParamsError, StaleError
from compression_gate.history import store
from compression_gate.history.store import REF
from compression_gate.pipeline.retrieval import md5_of_file, md5_of_folder
from compression_gate.records.base import digest_of_file
from compression_gate.records.params import read_params
from compression_gate.stages import gate, record

__all__ = ["finished"]
LOCAL = {"push": False, "remote": None, "release": None}


@pytest.fixture
def shop(finished):
    """A finished run in a git checkout, as `run` leaves it."""
    git(finished, "init", "-q", "-b", "main")
    (finished / ".dvc").mkdir()
    (finished / ".dvc/config").write_text("")
    (finished / ".gitignore").write_text(".compression_gate/\nmodels/\nreports/\n.dvc/\n")
    made = Shop(finished)
    made.git("add", ".")
    made.commit("first")
    judged(made)
    return made


def judged(shop: Shop) -> None:
    """Judge, and let DVC's lock speak of what lies there."""
    gate.run(shop.suite)
    outs = [
        {"path": "models/candidate", "hash": "md5", "md5": put_in_cache(shop.suite / "models/candidate", shop.cache)},
        {"path": "reports/metrics.json", "hash": "md5", "md5": md5_of_file(shop.suite / "reports/metrics.json")},
    ]
    lock = {"schema": "2.0", "stages": {"compress": {"cmd": "compression-gate compress", "outs": outs}}}
    (shop.suite / "dvc.lock").write_text(yaml.safe_dump(lock))


def failing(shop: Shop) -> None:
    """Limits that this run does not keep."""
    params = shop.suite / "params.yaml"
    params.write_text(params.read_text().replace("max: 2000", "max: 500"))
    shop.git("commit", "-q", "-am", "tighter")
    judged(shop)


def test_run_is_recorded_with_everything_a_later_one_needs(shop):
    made = record.run(shop.suite, **LOCAL)
    assert store.read(".", shop.root).records == (made,)
    assert (made.status, made.exit_code, made.policy) == ("pass", 0, "pull_request")
    assert made.commit == shop.git("rev-parse", "HEAD")
    assert made.candidate_md5 == md5_of_folder(shop.suite / "models/candidate")
    assert made.candidate_digest == json.loads((shop.suite / "models/candidate/artifact.json").read_text())["digest"]
    assert made.test_digest == "d"
    assert made.gate == read_params(shop.suite).as_dict()["gate"]
    assert made.metrics["candidate"]["size_bytes"] == 1000
    assert "compress" in made.lock["stages"]
    assert made.verdict.status == "pass"


def test_recorded_run_is_the_next_commits_baseline(shop):
    made = record.run(shop.suite, **LOCAL)
    shop.commit("next")
    history = shop.resolve()
    assert shop.reference()[1] == made
    assert history.baseline_gate == made.gate


def test_failing_run_is_recorded_as_failing(shop):
    failing(shop)
    made = record.run(shop.suite, **LOCAL)
    assert (made.status, made.exit_code) == ("fail", 1)


def test_crashed_run_is_recorded_without_the_files_it_left(shop):
    gate.crashed_verdict(
        shop.suite, read_params(shop.suite), {"stage": "train", "exit_code": 4, "message": "out of memory"}
    )
    made = record.run(shop.suite, **LOCAL)
    assert (made.status, made.exit_code, made.candidate_digest, made.metrics) == ("error", 4, None, {})


STALE = ["models/candidate/model.onnx", "reports/benchmark.json"]


@pytest.mark.parametrize("name", STALE)
def test_verdict_of_other_files_is_refused(shop, name):
    (shop.suite / name).write_bytes(b"other")
    with pytest.raises(StaleError, match=r"not recorded: [\s\S]*changed|expected the files"):
        record.run(shop.suite, **LOCAL)
    assert store.read(".", shop.root) == store.Runs()


def test_edited_verdict_is_refused(shop):
    failing(shop)
    path = shop.suite / "reports/verdict.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "pass", "exit_code": 0}))
    with pytest.raises(StaleError, match="edited"):
        record.run(shop.suite, **LOCAL)


@pytest.mark.parametrize("name", ["reports/verdict.json", "reports/metrics.json", "dvc.lock"])
@pytest.mark.parametrize("text", [None, "{"])
def test_missing_or_damaged_record_is_refused(shop, name, text):
    (shop.suite / name).unlink()
    if text is not None:
        (shop.suite / name).write_text(text)
    with pytest.raises((MetricsError, StaleError), match=name.rpartition("/")[2]) as caught:
        record.run(shop.suite, **LOCAL)
    assert caught.value.exit_code == 4


def test_lock_of_another_candidate_is_refused(shop):
    path = shop.suite / "dvc.lock"
    path.write_text(path.read_text().replace(md5_of_folder(shop.suite / "models/candidate"), "0" * 32 + ".dir"))
    with pytest.raises(StaleError, match="models/candidate: expected md5"):
        record.run(shop.suite, **LOCAL)


def test_edited_metrics_are_refused(shop):
    path = shop.suite / "reports/metrics.json"
    path.write_text(path.read_text().replace("1000.0", "900.0"))
    with pytest.raises(StaleError, match=r"metrics\.json: expected md5"):
        record.run(shop.suite, **LOCAL)


def test_changes_that_are_not_committed_are_refused(shop):
    (shop.suite / "notes.txt").write_text("edited")
    with pytest.raises(ParamsError, match=r"got changes in notes\.txt: commit them"):
        record.run(shop.suite, **LOCAL)


def with_source(shop: Shop, name: str, text: str = "w = 1\n") -> Path:
    """Write a source of the user's, and judge a run that read it."""
    path = shop.suite / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    (shop.suite / ".compression_gate/sources.json").write_text(json.dumps({name: digest_of_file(path)}))
    judged(shop)
    return path


@pytest.mark.parametrize("name", ["params.yaml", "dvc.yaml", "waivers.yaml", "shop.py"])
def test_what_the_commit_does_not_hold_is_not_recorded_under_it(shop, name):
    """Whoever checks that commit out could not make the run again."""
    for ours, text in (("dvc.yaml", "stages: {}\n"), ("waivers.yaml", "[]\n")):
        (shop.suite / ours).write_text(text)
    with_source(shop, "shop.py")
    shop.git("add", ".")
    shop.git("rm", "-q", "--cached", name)
    shop.git("commit", "-q", "-m", "not all of it")
    with pytest.raises(ParamsError, match=rf"commit \w+ to hold .* got none of {name}: "):
        record.run(shop.suite, **LOCAL)
    shop.git("add", name)
    shop.git("commit", "-q", "-m", "all of it")
    assert record.run(shop.suite, **LOCAL).commit == shop.git("rev-parse", "HEAD")


def test_ignored_source_counts_as_held_where_dvc_holds_it(shop):
    with_source(shop, "data/weights.bin")
    with (shop.suite / ".gitignore").open("a") as file:
        file.write("data/\n")
    shop.git("add", ".gitignore", "params.yaml")
    shop.git("commit", "-q", "-m", "weights")
    with pytest.raises(ParamsError, match=r"got none of data/weights\.bin: .*dvc add"):
        record.run(shop.suite, **LOCAL)
    dvc_add(shop.suite / "data", shop.cache)
    with pytest.raises(ParamsError, match=r"got none of data\.dvc: "):
        record.run(shop.suite, **LOCAL)
    shop.git("add", "data.dvc")
    shop.git("commit", "-q", "-m", "dvc add")
    assert record.run(shop.suite, **LOCAL).commit == shop.git("rev-parse", "HEAD")


def dvc_add(folder: Path, cache: Path) -> None:
    """Put a folder into DVC's hands."""
    md5 = put_in_cache(folder, cache)
    folder.with_name(f"{folder.name}.dvc").write_text(f"outs:\n- {{md5: {md5}, hash: md5, path: {folder.name}}}\n")


@pytest.mark.parametrize("is_cached", [True, False])
def test_source_that_is_not_what_its_dvc_file_says_is_refused(shop, is_cached):
    weights = with_source(shop, "data/weights.bin")
    dvc_add(weights.parent, shop.cache if is_cached else shop.root / ".dvc/elsewhere")
    shop.git("add", "data.dvc", "params.yaml")
    shop.git("commit", "-q", "-m", "data")
    assert record.run(shop.suite, **LOCAL).status == "pass"
    with_source(shop, "data/weights.bin", "w = 2\n")
    with pytest.raises(ParamsError, match=r"got others in data: dvc add them, commit"):
        record.run(shop.suite, **LOCAL)


def test_dvc_file_outside_the_suite_that_changed_is_refused(shop):
    inner = inside(shop)
    with_source(inner, "../data/weights.bin")
    dvc_add(shop.root / "data", shop.cache)
    shop.git("add", "data.dvc")
    shop.git("commit", "-q", "-m", "data")
    assert record.run(inner.suite, **LOCAL).status == "pass"
    with (shop.root / "data.dvc").open("a") as file:
        file.write("# another version\n")
    with pytest.raises(ParamsError, match=r"got changes in data\.dvc: commit them"):
        record.run(inner.suite, **LOCAL)


def test_more_sources_than_a_command_takes_can_be_recorded(shop):
    (shop.suite / "data").mkdir()
    names = [f"data/{'x' * 200}{number:05}.txt" for number in range(12_000)]
    for name in names:
        (shop.suite / name).touch()
    shop.git("add", ".")
    shop.git("commit", "-q", "-m", "data")
    empty = digest_of_file(shop.suite / names[0])
    (shop.suite / ".compression_gate/sources.json").write_text(json.dumps(dict.fromkeys(names, empty)))
    judged(shop)
    assert record.run(shop.suite, **LOCAL).status == "pass"


BAD_LOCKS = [
    "stages: []",
    "stages: {a: null}",
    "stages: {a: {outs: [x]}}",
    "stages: {a: {outs: null}}",
    "stages: {a: {outs: [{}]}}",
]


@pytest.mark.parametrize("text", BAD_LOCKS)
def test_lock_that_was_edited_by_hand_is_told(shop, text):
    (shop.suite / "dvc.lock").write_text(text)
    with pytest.raises(MetricsError, match=r"dvc\.lock: (stages|outs).*expected a (mapping|list)"):
        record.run(shop.suite, **LOCAL)


def test_source_that_a_pipeline_makes_is_none_of_the_commits(shop):
    with_source(shop, "weights.bin")
    lock = yaml.safe_load((shop.suite / "dvc.lock").read_text())
    lock["stages"]["download"] = {"cmd": "curl", "outs": [{"path": "weights.bin", "md5": "0"}]}
    (shop.suite / "dvc.lock").write_text(yaml.safe_dump(lock))
    assert record.run(shop.suite, **LOCAL).commit == shop.git("rev-parse", "HEAD")


def test_what_a_suite_in_a_folder_of_this_one_wrote_is_no_change_of_ours(shop):
    nested = shop.suite / "second"
    nested.mkdir()
    for name in ("dvc.yaml", "dvc.lock", "params.yaml"):
        (nested / name).write_text("a: 1\n")
    shop.git("add", "-f", "second")
    shop.git("commit", "-q", "-m", "two suites")
    judged(shop)
    (nested / "dvc.lock").write_text("a: 2\n")
    assert record.run(shop.suite, **LOCAL).commit == shop.git("rev-parse", "HEAD")
    (nested / "params.yaml").write_text("a: 2\n")
    with pytest.raises(ParamsError, match=r"got changes in second/params\.yaml: commit them"):
        record.run(shop.suite, **LOCAL)


def test_what_run_writes_may_be_tracked(shop):
    shop.git("add", "-f", "dvc.lock", "reports/metrics.json")
    shop.git("commit", "-q", "-m", "lock")
    with (shop.suite / "dvc.lock").open("a") as file:
        file.write("# another machine\n")
    assert record.run(shop.suite, **LOCAL).status == "pass"


def test_dvc_files_that_run_has_staged_do_not_matter(shop):
    """Where a repository has no DVC, `run` sets it up, and DVC stages its own files: a job could never record."""
    (shop.root / ".dvcignore").write_text("# none\n")
    shop.git("add", "-f", ".dvcignore", ".dvc/config")
    assert record.run(shop.suite, **LOCAL).status == "pass"


def inside(shop: Shop) -> Shop:
    """The same suite, in a folder of its repository."""
    inner = Shop(shop.root, "inner")
    inner.suite.mkdir()
    for name in ("models", "reports", "params.yaml"):
        shutil.move(shop.suite / name, inner.suite / name)
    shop.git("add", "-A")
    shop.git("commit", "-q", "-m", "moved")
    judged(inner)
    return inner


def test_changes_outside_the_suite_do_not_matter(shop):
    inner = inside(shop)
    (shop.root / "notes.txt").write_text("edited")
    made = record.run(inner.suite, **LOCAL)
    assert made.suite == "inner"
    assert store.read("inner", shop.root).records == (made,)


def test_folder_without_git_is_refused(finished):
    gate.run(finished)
    with pytest.raises(ParamsError, match="expected a git checkout"):
        record.run(finished, **LOCAL)


def test_repository_without_a_commit_is_refused(finished):
    git(finished, "init", "-q")
    gate.run(finished)
    with pytest.raises(ParamsError, match="expected a commit"):
        record.run(finished, **LOCAL)


def test_release_is_marked_and_stays_marked(shop):
    assert record.run(shop.suite, push=False, remote=None, release="v1").release == "v1"
    again = record.run(shop.suite, **LOCAL)
    assert (again.release, again.policy) == ("v1", "pull_request")


def test_release_of_a_failing_run_is_refused(shop):
    failing(shop)
    with pytest.raises(ParamsError, match="--release v1: expected a run that passes"):
        record.run(shop.suite, push=False, remote=None, release="v1")
    assert store.read(".", shop.root) == store.Runs()


@pytest.mark.parametrize("name", ["v1", "1"])
def test_name_of_another_release_is_refused(shop, name):
    record.run(shop.suite, push=False, remote=None, release="v1")
    shop.commit("next")
    judged(shop)
    with pytest.raises(ParamsError, match=f"--release {name}: expected a new name"):
        record.run(shop.suite, push=False, remote=None, release=name)


@pytest.mark.parametrize("name", ["", "never", "1\n2", "../1"])
def test_name_that_no_waiver_could_end_with_is_refused(shop, name):
    with pytest.raises(ParamsError, match="--release: expected a name of letters"):
        record.run(shop.suite, push=False, remote=None, release=name)


def test_release_that_another_clone_took_meanwhile_is_refused(shop, tmp_path, monkeypatch):
    git(tmp_path, "clone", "-q", "-b", "main", str(with_remotes(shop, tmp_path)), "rival")
    rival = Shop(tmp_path / "rival")

    def win(_suite: Path) -> None:
        rival.record(rival.commit(), release="v2")
        store.push("origin", rival.root)

    monkeypatch.setattr(record, "push_artifact", win)
    with pytest.raises(ParamsError, match="--release v2: expected a new name"):
        record.run(shop.suite, push=True, remote=None, release="v2")
    assert [one.release for one in store.read(".", shop.root).records].count("v2") == 1
    assert record.run(shop.suite, push=False, remote=None, release="v3").release == "v3"


def test_run_that_fails_where_one_was_released_does_not_replace_it(shop, caplog):
    made = record.run(shop.suite, push=False, remote=None, release="v1")
    slower = made.model_copy(update={"release": None, "status": "fail", "exit_code": 1, "verdict": None})
    assert record.agreed(slower, store.read(".", shop.root)) == made
    assert "stays released as v1: this run, which is fail, is not recorded" in caplog.text


def test_released_commit_is_not_recorded_with_other_bytes(shop):
    shop.record(name="other", release="v1")
    with pytest.raises(StaleError, match="was released as v1"):
        record.run(shop.suite, **LOCAL)


def test_other_bytes_of_a_commit_are_told_and_the_older_record_kept(shop, caplog):
    shop.record(name="other")
    record.run(shop.suite, **LOCAL)
    assert "was recorded before as pass with another candidate" in caplog.text
    assert shop.git("rev-list", "--count", REF) == "2"


def test_push_without_a_remote_is_refused(shop):
    for remote in (None, "nowhere"):
        with pytest.raises(ParamsError, match="--push: expected a git remote"):
            record.run(shop.suite, push=True, remote=remote, release=None)
    assert store.read(".", shop.root) == store.Runs()


def with_remotes(shop: Shop, tmp_path: Path) -> Path:
    """A bare repository to push to, and a DVC remote in a folder."""
    bare = tmp_path / "origin.git"
    git(tmp_path, "init", "-q", "--bare", str(bare))
    shop.git("remote", "add", "origin", str(bare))
    shop.git("push", "-q", "origin", "main")
    (shop.root / ".dvc/config").write_text("[core]\n    remote = s\n['remote \"s\"']\n    url = ../../store\n")
    (shop.suite / "dvc.yaml").write_text(
        "stages: {compress: {cmd: compression-gate compress, outs: [models/candidate]}}"
    )
    shop.git("add", "dvc.yaml")
    shop.git("commit", "-q", "-m", "stages")
    judged(shop)
    return bare


def test_pushed_record_and_artifact_serve_another_clone(shop, tmp_path):
    bare = with_remotes(shop, tmp_path)
    made = record.run(shop.suite, push=True, remote=None, release=None)
    shop.git("commit", "-q", "--allow-empty", "-m", "next")
    shop.git("push", "-q", "origin", "main")
    git(tmp_path, "clone", "-q", "-b", "main", str(bare), "clone")
    clone = Shop(tmp_path / "clone")
    (clone.root / ".dvc").mkdir()
    (clone.root / ".dvc/config").write_text((shop.root / ".dvc/config").read_text())
    clone.resolve()
    artifact, run = clone.reference()
    assert (artifact.digest, run) == (made.candidate_digest, made)


def test_artifact_that_cannot_be_pushed_leaves_no_record(shop, tmp_path):
    with_remotes(shop, tmp_path)
    (tmp_path / "store").write_text("no folder")
    with pytest.raises(HistoryError, match="dvc push models/candidate"):
        record.run(shop.suite, push=True, remote=None, release=None)
    assert store.read(".", shop.root) == store.Runs()


def rewritten(shop: Shop) -> None:
    """A history that begins anew, with a rule against the baseline that nothing is left of."""
    record.run(shop.suite, **LOCAL)
    params = shop.suite / "params.yaml"
    rule = "    change: {metric: accuracy, max_drop: 0.01, against: baseline}\n"
    params.write_text(params.read_text() + rule)
    shop.git("checkout", "-q", "--orphan", "anew")
    shop.git("commit", "-q", "-am", "begun anew")
    shop.git("branch", "-q", "-M", "main")
    shop.commit("and gone on")
    shop.resolve()
    judged(shop)


def test_rewritten_history_begins_anew_by_a_persons_word(shop):
    """Without it every run would be an error for want of a baseline, and none would ever become one."""
    rewritten(shop)
    assert record.run(shop.suite, **LOCAL).status == "error"
    made = record.run(shop.suite, **LOCAL, accepted="the history was rewritten to take a secret out")
    assert (made.status, made.is_baseline) == ("error", True)
    assert record.run(shop.suite, **LOCAL) == made, "recorded again without the word"
    shop.commit("next")
    assert shop.resolve().baseline_commit == made.commit


@pytest.mark.parametrize(("reason", "told"), [(" ", "got no reason"), ("because", "got no such check")])
def test_nothing_else_is_accepted(shop, reason, told):
    if reason == " ":
        rewritten(shop)
    with pytest.raises(ParamsError, match=told):
        record.run(shop.suite, **LOCAL, accepted=reason)


def test_failing_run_is_not_accepted(shop):
    rewritten(shop)
    failing(shop)
    with pytest.raises(ParamsError, match="got size too"):
        record.run(shop.suite, **LOCAL, accepted="we need it")
