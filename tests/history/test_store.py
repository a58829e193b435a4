"""The ref of recorded runs: what is appended is read back, nobody's record is lost, damage is told."""

from __future__ import annotations

import json
import os
import threading
import time

import psutil
import pytest
from repositories import git, new_shop

from compression_gate.errors import HistoryError
from compression_gate.history import store
from compression_gate.history.git import call as git_call
from compression_gate.history.store import REF

DAMAGES = [  # what lies in the record's file, what is said of it
    ("{", "the whole file"),
    ('{"schema": 2}', "schema"),
    ("", "the whole file"),
    ("[]", "the whole file"),
]


@pytest.fixture
def shop(tmp_path):
    return new_shop(tmp_path / "shop")


def overwrite(shop, path, text):
    """Put any text at a path of the ref's tree."""
    tip = shop.git("rev-parse", REF)
    (shop.root / "text").write_text(text)
    blob = shop.git("hash-object", "-w", "text")
    (shop.root / "text").unlink()
    made = store.committed(store.entries(tip, shop.root) | {path: blob}, [tip], "damage", shop.root)
    shop.git("update-ref", REF, made)


def test_no_ref_is_no_record(shop):
    assert store.read(".", shop.root) == store.Runs()


def test_records_are_read_back_equal_oldest_first(shop):
    newer = shop.record(recorded_at="2030-01-02T00:00:00+00:00")
    older = shop.record(shop.commit(), recorded_at="2030-01-01T00:00:00+00:00")
    assert store.read(".", shop.root).records == (older, newer)


def test_appending_leaves_index_working_tree_and_branches_alone(shop):
    (shop.root / "staged.txt").write_text("staged")
    shop.git("add", "staged.txt")
    (shop.root / "notes.txt").write_text("edited")
    before = (shop.git("status", "--porcelain"), shop.git("for-each-ref", "refs/heads"))
    shop.record()
    assert (shop.git("status", "--porcelain"), shop.git("for-each-ref", "refs/heads")) == before


def test_git_without_a_user_can_record(shop, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    shop.git("config", "user.useConfigOnly", "true")
    shop.record()
    assert shop.git("log", "-1", "--format=%an", REF) == "compression-gate"


def test_hook_environment_does_not_lead_git_astray(shop, monkeypatch, tmp_path):
    """Inside a hook GIT_DIR and GIT_INDEX_FILE are those of the command that called it."""
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "foreign"))
    head = (shop.root / ".git/refs/heads/main").read_text().strip()
    record = shop.record(head)
    assert store.read(".", shop.root).records == (record,)
    assert not (tmp_path / "foreign").exists()


def test_recording_a_commit_again_replaces_the_record_and_the_ref_keeps_both(shop):
    first, second = shop.record(name="one"), shop.record(name="other")
    assert store.read(".", shop.root).records == (second,)
    path = f"_root/{first.commit}.json"
    assert json.loads(shop.git("show", f"{REF}~1:{path}"))["candidate_digest"] == first.candidate_digest


def test_appending_the_same_record_twice_is_one_commit(shop):
    record = shop.record()
    store.append(record, shop.root)
    assert shop.git("rev-list", "--count", REF) == "1"


def test_suites_do_not_see_each_other(shop):
    own = shop.record()
    above = shop.record(suite="models")
    below = shop.record(suite="models/große", name="third")
    for suite, record in ((".", own), ("models", above), ("models/große", below)):
        assert store.read(suite, shop.root).records == (record,)


@pytest.mark.parametrize(("text", "said"), DAMAGES)
def test_damage_is_told_and_spares_the_others(shop, text, said):
    good = shop.record()
    bad = shop.record(shop.commit())
    overwrite(shop, f"_root/{bad.commit}.json", text)
    runs = store.read(".", shop.root)
    assert runs.records == (good,)
    assert said in runs.damaged[bad.commit]
    assert f"{REF}:_root/{bad.commit}.json" in runs.damaged[bad.commit]


def test_record_that_lies_under_another_commit_is_damage(shop):
    record = shop.record()
    overwrite(shop, f"_root/{'a' * 40}.json", record.as_text())
    assert "expected a run of ." in store.read(".", shop.root).damaged["a" * 40]


def test_status_that_is_not_its_verdicts_is_damage(shop):
    record = shop.record(verdict=verdict("fail", 1))
    assert "expected its verdict's, fail" in store.read(".", shop.root).damaged[record.commit]


def verdict(status, code):
    """A verdict without checks."""
    return {
        "status": status,
        "exit_code": code,
        "policy": "pull_request",
        "checks": [],
        "params_digest": "",
        "sources_digest": "",
        "package_version": "0",
    }


def test_verdict_of_another_version_is_left_out_with_a_notice(shop):
    record = shop.record(verdict=verdict("pass", 0))
    plain = json.loads(record.as_text())
    plain["verdict"]["a_field_of_the_future"] = 1
    overwrite(shop, f"_root/{record.commit}.json", json.dumps(plain))
    runs = store.read(".", shop.root)
    assert runs.records == (record.model_copy(update={"verdict": None}),)
    assert "its verdict is of another version" in runs.notices[0]


def test_ref_that_is_no_commit_is_an_error(shop):
    shop.git("update-ref", REF, shop.git("hash-object", "-w", "notes.txt"))
    with pytest.raises(HistoryError, match="ls-tree"):
        store.read(".", shop.root)


def test_fetch_brings_the_remotes_records(shop):
    record = shop.record()
    clone = shop.clone("clone")
    assert store.read(".", clone.root) == store.Runs()
    store.fetch("origin", clone.root)
    assert store.read(".", clone.root).records == (record,)
    newer = shop.record(shop.commit())
    store.fetch("origin", clone.root)
    assert {one.commit for one in store.read(".", clone.root).records} == {record.commit, newer.commit}


def test_fetch_of_a_remote_without_history_keeps_what_is_here(shop):
    clone = shop.clone("clone")
    record = clone.record()
    store.fetch("origin", clone.root)
    assert store.read(".", clone.root).records == (record,)


def test_fetch_keeps_records_that_were_not_pushed_yet(shop):
    base = shop.record()
    clone = shop.clone("clone")
    store.fetch("origin", clone.root)
    ahead = clone.record(clone.commit())
    store.fetch("origin", clone.root)
    assert {one.commit for one in store.read(".", clone.root).records} == {base.commit, ahead.commit}
    foreign = shop.record(shop.commit())
    store.fetch("origin", clone.root)
    expected = {base.commit, ahead.commit, foreign.commit}
    assert {one.commit for one in store.read(".", clone.root).records} == expected


def test_of_two_records_of_one_run_the_later_one_counts_and_the_other_is_kept(shop):
    clone = shop.clone("clone")
    early = clone.record(name="early", recorded_at="2030-01-01T00:00:00+00:00")
    late = shop.record(name="late", recorded_at="2030-01-01T00:00:01+00:00")
    store.fetch("origin", clone.root)
    assert store.read(".", clone.root).records == (late,)
    log = git(clone.root, "log", "--format=%H", REF).split()
    texts = {git(clone.root, "show", f"{commit}:_root/{early.commit}.json") for commit in log[1:]}
    assert early.as_text().strip() in texts


SUCCESSIONS = [  # of the earlier record, of the later one, what stands in the end
    ({"release": "v1"}, {}, {"release": "v1"}),
    ({"accepted": "why", "status": "error"}, {}, {"accepted": "why"}),
    ({"accepted": "why", "status": "error"}, {"status": "error"}, {"accepted": "why", "status": "error"}),
    ({"release": "v1"}, {"status": "fail"}, {"release": "v1", "status": "pass"}),
    ({}, {"status": "fail"}, {"status": "fail"}),
    ({"release": "v1", "name": "other"}, {}, {"release": "v1"}),
    ({"accepted": "why", "name": "other"}, {}, {"accepted": None}),
]


@pytest.mark.parametrize(("earlier", "later", "expected"), SUCCESSIONS)
def test_of_two_records_of_one_commit_a_release_and_a_persons_word_stay(shop, earlier, later, expected):
    """Two jobs of one commit that fetch before either pushes, whichever of them does the merging."""
    clone = shop.clone("clone")
    clone.record(**earlier, recorded_at="2030-01-01T00:00:00+00:00")
    shop.record(**later, recorded_at="2030-01-01T00:00:01+00:00")
    store.fetch("origin", clone.root)
    (made,) = store.read(".", clone.root).records
    assert {name: getattr(made, name) for name in expected} == expected
    store.push("origin", clone.root)
    assert store.read(".", shop.root).records == (made,)


def test_after_a_lost_race_the_pusher_is_asked_whether_it_still_agrees(shop):
    one, two = shop.clone("one"), shop.clone("two")
    records = [clone.record(clone.commit(clone.root.name)) for clone in (one, two)]
    store.push("origin", one.root, lambda: pytest.fail("nobody was faster"))
    seen = []
    store.push("origin", two.root, lambda: seen.append(store.read(".", two.root).by_commit))
    assert [set(runs) for runs in seen] == [{record.commit for record in records}]


def test_broken_ref_is_not_an_empty_history(shop):
    shop.record()
    (shop.root / ".git" / REF).write_text("")
    with pytest.raises(HistoryError, match=rf"{REF}: expected a commit, got a broken ref: rm \.git/{REF};"):
        store.read(".", shop.root)


def test_lock_that_a_dead_git_left_is_told_as_that(shop, monkeypatch):
    monkeypatch.setattr(store.git, "PATIENTLY", ("-c", "core.filesRefLockTimeout=10"))
    clone = shop.clone("clone")
    shop.record()
    store.fetch("origin", clone.root)
    (shop.root / ".git" / f"{REF}.lock").touch()
    with pytest.raises(HistoryError, match=r"runs\.lock': File exists.*remove that \.lock"):
        shop.record(shop.commit())
    clone.record(clone.commit())
    monkeypatch.setattr(store, "TRIES", 1)
    monkeypatch.setattr(store, "fetch", lambda *_: None)
    with pytest.raises(HistoryError, match=r"runs\.lock': File exists.*remove that \.lock there"):
        store.push("origin", clone.root)


def test_partial_clone_has_the_records_it_fetched(shop):
    """It would ask for each when it is read, one at a time."""
    shop.git("config", "uploadpack.allowFilter", "true")
    record = shop.record()
    clone = shop.clone("clone", "--filter=blob:none")
    store.fetch("origin", clone.root)
    git(clone.root, "remote", "set-url", "origin", "file:///nowhere")
    assert store.read(".", clone.root).records == (record,)


def test_call_that_the_system_refuses_is_an_error_of_ours(shop):
    with pytest.raises(HistoryError, match="git status: cannot be called"):
        git_call(["status", "--", "x" * 10_000_000], shop.root)


def test_remote_that_is_not_there_is_an_error(shop, tmp_path):
    shop.git("remote", "add", "origin", str(tmp_path / "none"))
    with pytest.raises(HistoryError, match="ls-remote"):
        store.fetch("origin", shop.root)
    shop.record()
    with pytest.raises(HistoryError, match="give this job the right"):
        store.push("origin", shop.root)


@pytest.mark.skipif(os.name != "posix", reason="the way to the remote is a shell script")
def test_remote_that_never_answers_is_given_up_with_all_it_started(shop, monkeypatch, tmp_path):
    silent, pid = tmp_path / "silent", tmp_path / "pid"
    silent.write_text(f"#!/bin/sh\necho $$ > {pid}\nexec sleep 600\n")
    silent.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(silent))
    monkeypatch.setenv("GIT_SSH_VARIANT", "simple")
    monkeypatch.setattr(store.git, "PATIENCE_S", 0.5)
    shop.git("remote", "add", "origin", "ssh://nobody/nothing.git")
    with pytest.raises(HistoryError, match=r"git ls-remote: no answer within 0\.5 s"):
        store.fetch("origin", shop.root)
    assert ended(int(pid.read_text()))


def ended(pid):
    """Whether a process that was told to end has, at most seconds later; nobody may be there to bury it."""
    for _ in range(200):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_whoever_loses_a_race_goes_on_top_of_the_winner(shop):
    one, two = shop.clone("one"), shop.clone("two")
    records = [clone.record(clone.commit(clone.root.name)) for clone in (one, two)]
    store.push("origin", one.root)
    store.push("origin", two.root)
    assert {run.commit for run in store.read(".", shop.root).records} == {record.commit for record in records}
    assert shop.git("merge-base", "--is-ancestor", git(one.root, "rev-parse", REF), REF) == ""


def test_many_at_once_lose_nothing(shop):
    clones = [shop.clone(f"clone{number}") for number in range(4)]
    records = [clone.record(clone.commit(clone.root.name)) for clone in clones]
    threads = [threading.Thread(target=store.push, args=("origin", clone.root)) for clone in clones]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {run.commit for run in store.read(".", shop.root).records} == {record.commit for record in records}


def test_two_processes_of_one_clone_lose_nothing(shop):
    commits = [shop.commit() for _ in range(4)]
    records = [shop.record(commit, suite=f"suite{index}") for index, commit in enumerate(commits)]
    shop.git("update-ref", "-d", REF)
    threads = [threading.Thread(target=store.append, args=(record, shop.root)) for record in records]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for record in records:
        assert store.read(record.suite, shop.root).records == (record,)


def test_push_runs_no_hook_of_the_users(shop):
    clone = shop.clone("clone")
    hook = clone.root / ".git/hooks/pre-push"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    clone.record()
    store.push("origin", clone.root)
    assert len(store.read(".", shop.root).records) == 1


def test_remote_that_refuses_is_told_at_once(shop):
    hook = shop.root / ".git/hooks/pre-receive"
    hook.write_text("#!/bin/sh\necho not you >&2\nexit 1\n")
    hook.chmod(0o755)
    clone = shop.clone("clone")
    clone.record()
    with pytest.raises(HistoryError, match="not you"):
        store.push("origin", clone.root)


def test_shallow_clone_can_record_and_push(shop):
    before = shop.record()
    shop.commit()
    clone = shop.clone("clone", "--depth", "1")
    store.fetch("origin", clone.root)
    record = clone.record()
    store.push("origin", clone.root)
    assert {one.commit for one in store.read(".", shop.root).records} == {before.commit, record.commit}
