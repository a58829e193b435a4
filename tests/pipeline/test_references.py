"""Which earlier candidates a run is held against: found where they are, and never taken for a first run when lost."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from repositories import Shop, git, new_shop, put_in_cache, write_artifact

from compression_gate.history import store
from compression_gate.history.store import REF
from compression_gate.pipeline import retrieval
from compression_gate.pipeline.dvc import dvc
from compression_gate.pipeline.references import resolve
from compression_gate.pipeline.retrieval import md5_of_folder
from compression_gate.records.artifact import Artifact
from compression_gate.records.history import NO_RECORD, NO_RELEASE, NOTHING_ACCEPTED
from compression_gate.records.params import read_params

FORGES = ("COMPRESSION_GATE_TARGET", "GITHUB_BASE_REF", "CI_MERGE_REQUEST_TARGET_BRANCH_NAME")


@pytest.fixture(autouse=True)
def outside_of_any_forge(monkeypatch):
    for name in FORGES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def shop(tmp_path):
    return new_shop(tmp_path / "shop")


def contents(suite: Path):
    """Time stamps and bytes of all state."""
    files = [path for path in (suite / ".compression_gate").rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_first_run_of_all(shop):
    history = shop.resolve()
    assert (shop.absent(), shop.absent("release")) == (NO_RECORD, NO_RECORD)
    assert history.baseline_commit is None


def test_folder_without_git(tmp_path):
    (tmp_path / "params.yaml").write_text((new_shop(tmp_path / "shop").suite / "params.yaml").read_text())
    resolve(tmp_path, read_params(tmp_path))
    assert (tmp_path / ".compression_gate/references/baseline/absent").read_text().strip() == NO_RECORD


def test_repository_without_a_commit(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "params.yaml").write_text((new_shop(tmp_path / "shop").suite / "params.yaml").read_text())
    resolve(tmp_path, read_params(tmp_path))
    assert (tmp_path / ".compression_gate/references/baseline/absent").read_text().strip() == NO_RECORD


def test_branch_is_held_against_where_it_left_main(shop):
    record = shop.record(name="small")
    shop.git("checkout", "-q", "-b", "feature")
    shop.commit("feature")
    shop.git("checkout", "-q", "main")
    shop.record(shop.commit("main goes on"), name="later")
    shop.git("checkout", "-q", "feature")
    history = shop.resolve()
    artifact, run = shop.reference()
    assert (artifact.digest, run) == (record.candidate_digest, record)
    assert history.baseline_commit == record.commit
    assert history.baseline_gate == {"rules": {"size": {"max": 5}}}
    assert shop.absent("release") == NO_RELEASE


def test_main_itself_is_held_against_its_first_parent(shop):
    record = shop.record()
    shop.record(shop.commit(), name="itself")
    shop.resolve()
    assert shop.reference()[1] == record


def test_first_commit_that_is_recorded_runs_again_as_it_did_before(shop):
    shop.record(release="v1")
    shop.resolve()
    assert (shop.absent(), shop.absent("release")) == (NOTHING_ACCEPTED, NO_RELEASE)


def test_second_commit_of_main_before_the_first_record_there_is_told_that_one_exists(shop):
    shop.commit()
    old = shop.git("rev-parse", "HEAD")
    shop.record(shop.commit())
    shop.git("checkout", "-q", old)
    shop.resolve()
    assert shop.absent().startswith("no_baseline: 1 runs that passed are recorded")


def test_runs_that_failed_are_walked_past(shop):
    good = shop.record()
    for status in ("fail", "error", "undecided"):
        shop.record(shop.commit(), status=status, name=status)
    shop.commit()
    shop.resolve()
    assert shop.reference()[1] == good


def test_commits_without_a_record_are_walked_past(shop):
    good = shop.record()
    for _ in range(3):
        shop.commit()
    shop.resolve()
    assert shop.reference()[1] == good


def test_nothing_was_ever_accepted(shop):
    shop.record(status="fail")
    shop.commit()
    shop.resolve()
    assert shop.absent() == NOTHING_ACCEPTED


def merged(shop: Shop) -> tuple[str, str]:
    """A merge of a branch into main: the commits of main and of the branch before it."""
    shop.git("checkout", "-q", "-b", "side")
    shop.git("commit", "-q", "--allow-empty", "-m", "side")
    side = shop.git("rev-parse", "HEAD")
    shop.git("checkout", "-q", "main")
    own = shop.commit("main")
    shop.git("merge", "-q", "--no-ff", "side", "-m", "merge")
    return own, side


def test_before_a_merge_the_line_of_the_first_parent_counts(shop):
    shop.record(name="root")
    own, side = merged(shop)
    shop.record(side, name="side")
    wanted = shop.record(own, name="main")
    shop.commit()
    shop.resolve()
    assert shop.reference()[1] == wanted


def test_behind_a_merge_the_merged_branch_counts_where_it_is_nearer(shop):
    shop.record(name="root")
    _, side = merged(shop)
    wanted = shop.record(side, name="side")
    shop.commit()
    shop.resolve()
    assert shop.reference()[1] == wanted


def test_merge_commit_of_the_forge_is_held_against_main(shop):
    """A pull request's job checks out, detached, what merging would give."""
    record = shop.record(shop.commit("on main"))
    shop.git("checkout", "-q", "-b", "feature", "HEAD~1")
    shop.git("commit", "-q", "--allow-empty", "-m", "feature")
    clone = shop.clone("clone", "-b", "main")
    clone.git("checkout", "-q", "--detach", "origin/main")
    clone.git("merge", "-q", "--no-ff", "origin/feature", "-m", "would be")
    clone.git("branch", "-D", "main")
    clone.resolve(target="main")
    assert clone.reference()[1] == record


TARGETS = [  # option, the environment, the branch that counts
    ("next", {}, "next"),
    (None, {"COMPRESSION_GATE_TARGET": "next"}, "next"),
    (None, {"GITHUB_BASE_REF": "next"}, "next"),
    (None, {"GITHUB_BASE_REF": ""}, "main"),
    (None, {"CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "next"}, "next"),
    ("main", {"GITHUB_BASE_REF": "next"}, "main"),
    ("origin/next", {}, "next"),
    (None, {}, "main"),
]


@pytest.mark.parametrize(("option", "environment", "expected"), TARGETS)
def test_target_branch_is_taken_from_option_environment_remote(shop, monkeypatch, option, environment, expected):
    shop.record(name="main")
    shop.git("checkout", "-q", "-b", "next")
    shop.record(shop.commit("next"), name="next")
    shop.git("checkout", "-q", "-b", "feature")
    shop.commit("feature")
    clone = shop.clone("clone")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    clone.git("remote", "set-head", "origin", "main")
    history = clone.resolve(target=option)
    assert history.baseline_gate == {"rules": {"size": {"max": len(expected)}}}


def test_remote_view_of_the_target_goes_before_the_local_branch(shop):
    """A local main that was never pulled is older than what the remote accepted."""
    shop.record(name="old")
    clone = shop.clone("clone")
    wanted = shop.record(shop.commit(), name="newer")
    clone.git("fetch", "-q")
    clone.git("checkout", "-q", "-b", "feature", "origin/main")
    clone.git("commit", "-q", "--allow-empty", "-m", "feature")
    clone.resolve()
    assert clone.reference()[1] == wanted


def test_target_that_is_not_here_is_told_with_the_line_that_fetches_it(shop):
    shop.record()
    shop.commit()
    shop.resolve(target="nowhere")
    assert shop.absent().startswith("no_baseline: the target branch 'nowhere' (--target) is not known in this clone: ")
    assert "git fetch <remote> +refs/heads/nowhere:refs/remotes/<remote>/nowhere" in shop.absent()


def test_records_of_other_branches_only_are_no_first_run(shop):
    shop.git("checkout", "-q", "-b", "other")
    shop.record(shop.commit("other"))
    shop.git("checkout", "-q", "main")
    shop.commit()
    shop.resolve()
    assert shop.absent().startswith(
        "no_baseline: 1 runs that passed are recorded, and none is of a commit at or before"
    )


def test_release_is_the_last_one_however_many_commits_ago(shop):
    first = shop.record(release="v1", name="v1")
    second = shop.record(shop.commit(), release="v2", name="v2")
    shop.record(shop.commit(), name="after")
    shop.commit()
    history = shop.resolve()
    assert shop.reference("release")[1] == second
    assert (history.release_name, history.release_commit, history.releases) == ("v2", second.commit, ("v1", "v2"))
    assert first.commit != second.commit


def test_release_of_another_branch_only_is_an_error(shop):
    shop.record()
    shop.git("checkout", "-q", "-b", "other")
    shop.record(shop.commit("other"), release="v1")
    shop.git("checkout", "-q", "main")
    shop.commit()
    shop.resolve()
    assert shop.absent("release").startswith("no_baseline: 1 releases are recorded, and none")


def test_candidates_judged_on_one_test_set_are_listed_once_oldest_first(shop):
    names = ["b", "a", "b", "c"]
    records = [
        shop.record(shop.commit(), name=name, recorded_at=f"2030-01-0{day}T00:00:00", status=status)
        for day, (name, status) in enumerate(zip(names, ["pass", "fail", "pass", "pass"], strict=True), start=1)
    ]
    shop.record(shop.commit(), name="d", test_digest="other")
    digests = [record.candidate_digest for record in records]
    assert shop.resolve().judged["t"] == (digests[0], digests[1], digests[3])


def test_shallow_clone_without_the_record_says_the_line_that_mends_it(shop):
    shop.record()
    for _ in range(3):
        shop.commit()
    clone = shop.clone("clone", "--depth", "2")
    clone.resolve()
    assert clone.absent().startswith("no_baseline: this clone is shallow")
    assert clone.absent().endswith(": git fetch --unshallow")
    clone.git("fetch", "-q", "--unshallow")
    clone.resolve()
    assert clone.reference()[1].commit == shop.git("rev-parse", "HEAD~3")


@pytest.mark.parametrize("branch", ["main", "feature"])
def test_checkout_of_depth_one_is_shallow_and_no_first_run(shop, monkeypatch, branch):
    shop.record()
    shop.commit()
    shop.git("branch", "feature")
    shop.git("checkout", "-q", "feature")
    shop.commit()
    monkeypatch.setenv("GITHUB_BASE_REF", "" if branch == "main" else "main")
    clone = shop.clone("clone", "--depth", "1", "-b", branch)
    clone.git("checkout", "-q", "--detach")
    clone.resolve()
    assert clone.absent().startswith("no_baseline: this clone is shallow"), clone.absent()
    clone.git(*clone.absent().rpartition(": git ")[2].split())
    clone.resolve()
    assert clone.reference()[1].commit == shop.git("rev-parse", "main~1")


def test_shallow_clone_with_the_record_will_do(shop):
    shop.commit()
    record = shop.record(shop.commit())
    shop.commit()
    clone = shop.clone("clone", "--depth", "2")
    clone.resolve()
    assert clone.reference()[1] == record


def test_history_deleted_here_is_fetched_again(shop):
    record = shop.record()
    shop.commit()
    clone = shop.clone("clone")
    clone.resolve()
    clone.git("update-ref", "-d", REF)
    clone.resolve()
    assert clone.reference()[1] == record


def test_history_deleted_everywhere_is_no_first_run(shop):
    record = shop.record()
    shop.commit()
    clone = shop.clone("clone")
    clone.resolve()
    for one in (shop, clone):
        one.git("update-ref", "-d", REF)
    for _ in range(2):  # the second time nothing but memory says that there was one
        clone.resolve()
        assert clone.absent() == (
            f"no_baseline: a baseline of {record.commit} was recorded here before, and the history is gone: "
            f"git fetch origin {REF}:{REF}"
        )
        assert clone.absent("release") == NO_RECORD


def test_history_deleted_on_the_remote_alone_is_still_here(shop):
    record = shop.record()
    shop.commit()
    clone = shop.clone("clone")
    clone.resolve()
    shop.git("update-ref", "-d", REF)
    (clone.suite / ".compression_gate/seen.json").unlink()
    clone.resolve()
    assert clone.reference()[1] == record


def test_memory_that_is_gone_is_made_good_by_the_record_beside_the_baseline(shop):
    shop.record()
    shop.commit()
    shop.resolve()
    (shop.suite / ".compression_gate/seen.json").unlink()
    shop.git("update-ref", "-d", REF)
    shop.resolve()
    assert shop.absent().startswith("no_baseline: a baseline of ")


@pytest.mark.parametrize("status", [None, "fail"])
def test_history_that_the_policy_requires_is_missed_in_the_first_run(shop, status):
    if status:
        shop.record(status=status)
    params = read_params(shop.suite)
    gate = params.gate.model_copy(update={"policies": {"history": "required"}})
    resolve(shop.suite, params.model_copy(update={"gate": gate}))
    assert shop.absent().startswith("no_baseline: ")
    assert "gate.policies.history is required" in shop.absent()


def test_remote_out_of_reach_is_told_where_no_history_is_here(shop):
    shop.record()
    shop.commit()
    clone = shop.clone("clone")
    shop.root.rename(shop.root.parent / "away")
    clone.resolve()
    assert clone.absent().startswith("data_unreachable: the history at origin cannot be read: git ls-remote: fatal: ")
    assert "\n" not in clone.absent()


def test_remote_out_of_reach_is_a_notice_where_a_history_is_here(shop):
    record = shop.record()
    shop.commit()
    clone = shop.clone("clone")
    clone.resolve()
    cache = shop.root.parent / "away"
    shop.root.rename(cache)
    clone.git("commit", "-q", "--allow-empty", "-m", "next")
    history = clone.resolve()
    assert clone.reference()[1] == record
    assert history.notices[0].startswith("the history may be old: origin could not be asked: ")


def test_remote_is_asked_once_in_five_minutes_for_one_commit(shop, monkeypatch):
    shop.record()
    shop.commit()
    clone = shop.clone("clone")
    asked = []
    real = store.fetch
    monkeypatch.setattr(store, "fetch", lambda *words: asked.append(words) or real(*words))
    clone.resolve()
    clone.resolve()
    assert len(asked) == 1
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 301)
    clone.resolve()
    assert len(asked) == 2
    clone.git("commit", "-q", "--allow-empty", "-m", "next")
    clone.resolve()
    assert len(asked) == 3


def test_nothing_is_written_when_nothing_changed(shop):
    shop.record(release="v1")
    shop.commit()
    clone = shop.clone("clone")
    clone.resolve()
    before = contents(clone.suite)
    clone.resolve()
    assert contents(clone.suite) == before


@pytest.mark.parametrize("name", ["history.json", "seen.json", "references/baseline/run.json"])
def test_state_that_is_no_text_is_written_anew(shop, name):
    record = shop.record()
    shop.commit("next")
    history = shop.resolve()
    (shop.suite / ".compression_gate" / name).write_bytes(b"\xff\xfe{}")
    assert shop.resolve() == history
    assert shop.reference()[1] == record


def test_what_a_killed_run_left_is_removed(shop):
    left = shop.suite / ".compression_gate/references/.baseline.abc123"
    left.mkdir(parents=True)
    (left / "model.onnx").write_text("half of it")
    shop.resolve()
    assert not left.exists()


def test_new_baseline_takes_the_place_of_the_old_one(shop):
    shop.record(name="old")
    shop.commit()
    shop.resolve()
    wanted = shop.record(name="new")
    shop.commit()
    shop.resolve()
    artifact, run = shop.reference()
    assert (artifact.digest, run) == (wanted.candidate_digest, wanted)


def test_record_of_the_same_artifact_leaves_what_dvc_hashes_as_it_was(shop):
    """A commit that changes no model must not make evaluate and benchmark run again."""
    shop.git("config", "core.excludesFile", "/dev/null")
    shop.record(name="same")
    shop.commit()
    first = shop.resolve()
    wanted = shop.record(name="same")
    shop.commit()
    hashed = dvc_hash(shop)
    second = shop.resolve()
    assert shop.reference()[1] == wanted
    assert first.run_digests != second.run_digests
    assert dvc_hash(shop) == hashed


def dvc_hash(shop: Shop) -> str:
    """What DVC takes the references for, as a stage's dep."""
    stage = "stages: {look: {cmd: 'true', deps: [.compression_gate/references]}}"
    (shop.suite / "dvc.yaml").write_text(stage)
    (shop.suite / "dvc.lock").unlink(missing_ok=True)
    done = dvc(["repro", "--no-run-cache"], shop.suite)
    assert done.returncode == 0, done.stderr
    return (shop.suite / "dvc.lock").read_text()


def test_artifact_that_was_tampered_with_here_is_fetched_anew(shop):
    record = shop.record()
    shop.commit()
    shop.resolve()
    (shop.suite / ".compression_gate/references/baseline/model.onnx").write_text("other")
    shop.resolve()
    assert shop.reference()[0].digest == record.candidate_digest


def with_remote(shop: Shop) -> Path:
    """A DVC remote in a folder, named by a path as seen from the configuration."""
    remote = shop.root.parent / "store"
    (shop.root / ".dvc/config").write_text("[core]\n    remote = store\n")
    (shop.root / ".dvc/config.local").write_text("['remote \"store\"']\n    url = ../../store\n")
    return remote


def test_artifact_that_is_gone_from_the_cache_comes_from_the_remote(shop):
    record = shop.record()
    shop.commit()
    remote = with_remote(shop)
    shutil.move(shop.cache, remote)
    shop.resolve()
    assert shop.reference()[0].digest == record.candidate_digest


def test_object_that_is_damaged_in_the_cache_comes_from_the_remote(shop):
    record = shop.record()
    shop.commit()
    shutil.copytree(shop.cache, with_remote(shop))
    for path in (path for path in shop.cache.rglob("*") if path.is_file()):
        path.write_text("damaged")
    shop.resolve()
    assert shop.reference()[0].digest == record.candidate_digest


def test_artifact_that_is_gone_from_both_is_not_comparable(shop):
    record = shop.record()
    shop.commit()
    with_remote(shop).mkdir()
    shutil.rmtree(shop.cache)
    history = shop.resolve()
    assert shop.absent().startswith(f"not_comparable: the baseline, of {record.commit}, is gone: ")
    assert shop.absent().endswith(": compression-gate run --rebuild-baseline")
    assert history.baseline_commit == record.commit


def test_baseline_that_is_lost_leaves_no_older_one_behind(shop):
    shop.record(name="old")
    shop.commit()
    shop.resolve()
    shop.record(name="new")
    shop.commit()
    shutil.rmtree(shop.cache)
    shop.resolve()
    folder = shop.suite / ".compression_gate/references/baseline"
    assert [path.name for path in folder.iterdir()] == ["absent"]


def test_artifact_of_other_bytes_than_recorded_is_not_comparable(shop, tmp_path):
    write_artifact(tmp_path / "other", "other")
    md5 = put_in_cache(tmp_path / "other", shop.cache)
    shop.record(candidate_md5=md5)
    shop.commit()
    shop.resolve()
    assert shop.absent().startswith("not_comparable: ")
    assert "expected the artifact" in shop.absent()


HASHES = ["../../../etc/passwd", "d41d8cd98f00b204e9800998ecf8427e", None]


@pytest.mark.parametrize("md5", HASHES)
def test_record_that_names_no_folder_of_the_cache_is_not_comparable(shop, md5):
    shop.record(candidate_md5=md5)
    shop.commit()
    shop.resolve()
    assert shop.absent().startswith("not_comparable: ")


def test_name_that_leads_out_of_the_folder_is_refused(shop, tmp_path):
    import hashlib

    listing = json.dumps([{"md5": "0" * 32, "relpath": "../../escaped"}])
    md5 = hashlib.md5(listing.encode()).hexdigest() + ".dir"
    place = shop.cache / "files/md5" / md5[:2]
    place.mkdir(parents=True)
    (place / md5[2:]).write_text(listing)
    with pytest.raises(retrieval.LostArtifactError, match="inside the folder"):
        retrieval.copy_from_cache(shop.cache, md5, tmp_path / "into")


def test_folder_hash_is_dvcs_own(shop):
    write_artifact(shop.suite / "models/candidate", "any")
    (shop.suite / ".gitignore").write_text(".dvc/\n")
    done = dvc(["add", "models/candidate"], shop.suite)
    assert done.returncode == 0, done.stderr
    assert md5_of_folder(shop.suite / "models/candidate") in (shop.suite / "models/candidate.dvc").read_text()


def damage(shop: Shop, commit: str) -> None:
    """Cut the record of a commit short."""
    tip = shop.git("rev-parse", REF)
    (shop.root / ".dvc/text").write_text("{")
    blob = shop.git("hash-object", "-w", ".dvc/text")
    files = store.entries(tip, shop.root) | {f"_root/{commit}.json": blob}
    shop.git("update-ref", REF, store.committed(files, [tip], "damage", shop.root))


def test_damaged_record_is_told_and_an_older_one_taken(shop):
    good = shop.record()
    bad = shop.record(shop.commit())
    damage(shop, bad.commit)
    shop.commit()
    history = shop.resolve()
    assert shop.reference()[1] == good
    assert bad.commit in history.notices[0]


def test_damaged_record_is_no_first_run(shop):
    record = shop.record()
    damage(shop, record.commit)
    shop.commit()
    for role in ("baseline", "release"):
        shop.resolve()
        assert shop.absent(role).startswith("no_baseline: ")
        assert f"_root/{record.commit}.json" in shop.absent(role)


def test_ref_that_is_no_history_is_no_first_run(shop):
    shop.git("update-ref", REF, shop.git("hash-object", "-w", "notes.txt"))
    shop.resolve()
    assert shop.absent().startswith("no_baseline: git ls-tree")


def test_machine_without_the_program_git_cannot_call_it_a_first_run(shop, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    resolve(shop.suite, read_params(shop.suite))
    assert shop.absent().startswith("no_baseline: ")
    assert "install it" in shop.absent()


def test_checkout_of_another_user_is_no_first_run(shop, monkeypatch):
    """In a container git refuses folders that somebody else owns, and says how to allow one."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    shop.resolve()
    assert shop.absent().startswith("no_baseline: git remote: fatal: detected dubious ownership")
    assert "git config --global --add safe.directory" in shop.absent()


def test_suite_in_a_folder_has_records_of_its_own(tmp_path):
    shop = new_shop(tmp_path / "shop", "models")
    record = shop.record(name="its own")
    Shop(shop.root, ".").record(name="roots")
    other = Shop(shop.root, "other")
    other.suite.mkdir()
    shutil.copy(shop.suite / "params.yaml", other.suite)
    shop.commit()
    shop.resolve()
    assert shop.reference()[1] == record
    other.resolve()
    assert other.absent() == NO_RECORD


def test_worktree_of_a_repository_sees_its_history(shop, tmp_path):
    record = shop.record()
    shop.git("worktree", "add", "-q", "-b", "feature", str(tmp_path / "tree"))
    tree = Shop(tmp_path / "tree")
    (tree.root / ".dvc").mkdir()
    (tree.root / ".dvc/config").write_text(f"[cache]\n    dir = {shop.cache}\n")
    tree.git("commit", "-q", "--allow-empty", "-m", "feature")
    shop.commit("main goes on")
    tree.resolve()
    assert tree.reference()[1] == record


@pytest.fixture
def stages(monkeypatch):
    """Stage words that need no torch: the last one writes a candidate named by what git and the data folder hold."""
    calls = []

    def stage(word, place):
        calls.append((word, (place / "data/raw.txt").read_text()))
        if word == "compress":
            write_artifact(place / "models/candidate", (place / "notes.txt").read_text())

    monkeypatch.setattr(retrieval, "stage", stage)
    return calls


def lost(shop: Shop, name: str):
    """A record whose artifact is gone, and data that git does not hold."""
    (shop.suite / "data").mkdir()
    (shop.suite / "data/raw.txt").write_text("raw")
    record = shop.record(name=name)
    shop.commit("next")
    shutil.rmtree(shop.cache)
    return record


def test_baseline_is_built_again_from_its_commit(shop, stages):
    record = lost(shop, "first\n")
    history = shop.resolve(rebuild=True)
    artifact, run = shop.reference()
    assert (artifact.digest, run) == (record.candidate_digest, record)
    assert stages == [("prepare", "raw"), ("train", "raw"), ("compress", "raw")]
    assert history.notices == ()
    assert shop.git("worktree", "list").count("\n") == 0


def test_baseline_built_with_other_bytes_is_used_and_told_and_kept(shop, stages):
    record = lost(shop, "other bytes")
    for rebuild in (True, False):
        history = shop.resolve(rebuild=rebuild)
        assert shop.reference()[1] == record
        assert "was built again and has other bytes" in history.notices[0]
    assert len(stages) == 3


@pytest.mark.parametrize("error", [retrieval.LostArtifactError("train ended with code 4: NaN"), OSError("disk")])
def test_building_that_fails_says_why(shop, monkeypatch, error):
    lost(shop, "first")

    def fail(*_):
        raise error

    monkeypatch.setattr(retrieval, "stage", fail)
    shop.resolve(rebuild=True)
    assert shop.absent().startswith("not_comparable: ")
    assert str(error) in shop.absent()
    assert shop.git("worktree", "list").count("\n") == 0


def test_interrupt_removes_the_worktree(shop, monkeypatch):
    lost(shop, "first")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(retrieval, "stage", interrupted)
    with pytest.raises(KeyboardInterrupt):
        shop.resolve(rebuild=True)
    assert shop.git("worktree", "list").count("\n") == 0


def test_stage_that_fails_is_told_with_its_last_words(shop):
    (shop.suite / "params.yaml").write_text("task: {model: 'nowhere:Net', data: 'nowhere:load'}\n")
    with pytest.raises(retrieval.LostArtifactError, match="prepare ended with code"):
        retrieval.stage("prepare", shop.suite)


def test_last_words_of_a_stage_may_be_of_another_encoding(shop):
    """The code of an older commit is run: whatever it prints, the message is there."""
    (shop.suite / "params.yaml").write_text("task: {model: 'loud:Net', data: 'loud:load'}\n")
    (shop.suite / "loud.py").write_text("import os\nos.write(2, b'caf\\xe9\\n')\n")
    with pytest.raises(retrieval.LostArtifactError, match="prepare ended with code"):
        retrieval.stage("prepare", shop.suite)


@pytest.mark.slow
def test_real_stages_build_the_recorded_bytes_again(suite):
    """A user's own model and data, trained and compressed in a checkout of the commit."""
    shop = Shop(suite.path)
    (suite.path / ".gitignore").write_text(".compression_gate/\nmodels/\nreports/\ndata/\n")
    (suite.path / "data").mkdir()
    (suite.path / "data/scale.txt").write_text("1")
    suite.replace("return Gratings(", "assert open('data/scale.txt').read() == '1'\n    return Gratings(")
    git(suite.path, "init", "-q", "-b", "main")
    shop.git("add", ".")
    commit = shop.commit("first")
    for word in retrieval.WORDS:
        retrieval.stage(word, suite.path)
    made = Artifact.open(suite.path / "models/candidate")
    (suite.path / ".dvc").mkdir()
    record = shop.record(commit, candidate_digest=made.digest)
    shop.commit("next")
    shutil.rmtree(shop.cache)
    history = shop.resolve(rebuild=True)
    assert shop.reference()[0].digest == record.candidate_digest
    assert history.notices == ()
