"""What another job uploaded: read if it is what `post --to` writes, refused with its reason if it is anything else."""

from __future__ import annotations

import io
import json
import os
import stat
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compression_gate.errors import UploadError
from compression_gate.forge import uploads
from compression_gate.forge.uploads import findings_of, read_uploads, upload_of
from compression_gate.records.upload import LONGEST_ADOPTION, MOST_ADOPTIONS, Upload
from compression_gate.reporters.markdown import rendered
from compression_gate.stages import gate, post
from compression_gate.stages.check import check
from compression_gate.stages.report import read_findings


@pytest.fixture
def written(judged: Path, tmp_path: Path) -> Path:
    """A folder with what `post --to` wrote."""
    post.run(post.Request(suite=judged, to=tmp_path / "upload"))
    return tmp_path / "upload"


def edited(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The same, after somebody changed it."""
    path = folder / "suite.json"
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))
    return folder


def archive(**members: bytes | str) -> bytes:
    """A zip archive of these members; two underscores stand for a dot, since names are keywords here."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            made.writestr(name.replace("__", "."), content)
    return buffer.getvalue()


def test_an_upload_gives_the_report_that_the_suite_gives(judged: Path, written: Path) -> None:
    (upload,) = read_uploads(written)
    assert rendered(findings_of(upload)) == rendered(read_findings(judged))
    assert not upload.problems


@pytest.mark.parametrize("policy", ["pull_request", "release"])
def test_an_upload_is_believed_under_every_policy(judged: Path, tmp_path: Path, policy: str) -> None:
    post.run(post.Request(suite=judged, to=tmp_path / "upload", policy=policy))
    (upload,) = read_uploads(tmp_path / "upload")
    outcome = check(judged, policy)
    assert (upload.verdict.status, upload.verdict.exit_code) == (outcome.status, outcome.exit_code)


def test_a_recipe_that_would_do_is_named_by_the_other_job_too(judged: Path) -> None:
    told = ("recipes/found/1a2b3c4d.yaml met these limits on validation data. " + "x" * 5000, *("more",) * 50)
    upload = Upload.model_validate_json(upload_of(replace(read_findings(judged), adoptions=told)).as_text())
    shown = findings_of(upload).adoptions
    assert "recipes/found/1a2b3c4d.yaml met these limits" in rendered(findings_of(upload))
    assert (len(shown), max(map(len, shown))) == (MOST_ADOPTIONS, LONGEST_ADOPTION)


def test_an_archive_is_read_without_unpacking(written: Path) -> None:
    content = archive(suite__json=(written / "suite.json").read_bytes())
    assert [one.suite for one in read_uploads(content)] == ["suite"]


def test_no_single_example_is_in_an_upload(judged: Path, written: Path) -> None:
    """1,000 examples in the run: nothing in the upload may be as long as that."""
    plain = json.loads((written / "suite.json").read_text())

    def longest(value: Any) -> int:
        if isinstance(value, dict):
            return max([len(value), *map(longest, value.values())], default=0)
        return max([len(value), *map(longest, value)], default=0) if isinstance(value, list) else 0

    plain["benchmark"]["pairs"] = {}  # medians of blocks of calls
    assert longest(plain) < 100


def test_a_verdict_that_may_not_be_believed_says_so_in_the_upload_too(judged: Path, tmp_path: Path) -> None:
    (judged / "reports/evaluation.json").write_text((judged / "reports/evaluation.json").read_text() + " ")
    post.run(post.Request(suite=judged, to=tmp_path / "upload"))
    (upload,) = read_uploads(tmp_path / "upload")
    assert (upload.verdict.status, upload.verdict.exit_code) == ("error", 4)
    assert upload.problems


def set_(*keys: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    """A change of one value."""

    def change(plain: dict[str, Any]) -> None:
        *way, last = keys
        place: Any = plain
        for key in way:
            place = place[key]
        place[last] = to

    return change


def failing_check(plain: dict[str, Any]) -> None:
    """A check that fails in a verdict that passes."""
    found = next(one for one in plain["verdict"]["checks"] if one["rule"] == "rate")
    found.update(status="fail", observed=1.0, headroom=-3.0, p_value=0.0)


def called_adaptive(plain: dict[str, Any]) -> None:
    """A verdict that says of its test set what its params do not, so as to need no checks."""
    plain["verdict"]["checks"] = []
    plain["verdict"]["test_reuse"]["mode"] = "adaptive"


EDITS = [
    (set_("verdict", "status", to="fail"), "its checks make"),
    (set_("verdict", "exit_code", to=3), "its checks make"),
    (failing_check, "its checks make"),
    (set_("verdict", "checks", to=[]), "has no check of gate.rules"),
    (called_adaptive, "has no check of gate.rules"),
    (set_("verdict", "params_digest", to="0" * 64), "its params are not those"),
    (set_("params", "gate", "rules", "accuracy", "max_drop", to=0.5), "its params are not those"),
    (set_("problems", to=["stale"]), "has problems and still says"),
    (set_("schema", to=2), "schema"),
    (set_("extra", to=1), "extra"),
    (set_("suite", to="../../etc"), "suite"),
    (set_("suite", to="a -->"), "suite"),
    (set_("suite", to=""), "suite"),
    (set_("folder", to="../other"), "folder"),
    (set_("folder", to="/etc"), "folder"),
    (set_("folder", to="a\nb"), "folder"),
    (set_("verdict", "checks", 0, "observed", to="much"), "observed"),
    (set_("verdict", to=None), "verdict"),
    (set_("params", "task", "model", to="os.system"), "task.model"),
    (set_("params", "gate", "rules", "accuracy", "max_drop", to=None), "gate.rules.accuracy"),
    (set_("params", "gate", "policies", to={"pull_request": {"fail": "warn"}, "x": 1}), "gate.policies"),
    (set_("rule_lines", to={"accuracy": "x"}), "rule_lines"),
    (set_("adoptions", to=["x" * (LONGEST_ADOPTION + 1)]), "adoptions.0"),
    (set_("adoptions", to=["x"] * (MOST_ADOPTIONS + 1)), "adoptions"),
]


@pytest.mark.parametrize(("change", "reason"), EDITS)
def test_an_upload_that_was_edited_is_refused(written: Path, change: Callable, reason: str) -> None:
    with pytest.raises(UploadError) as caught:
        read_uploads(edited(written, change))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


DAMAGED = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe\x00",
    b'{"schema": 1e999}',
    b'{"suite": "\\ud800"}',
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"schema": 1' + b"0" * 10_000 + b"}",
]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_file_that_is_no_upload_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "suite.json").write_bytes(content)
    with pytest.raises(UploadError, match=r"suite\.json"):
        read_uploads(tmp_path)


def test_a_value_that_python_has_and_json_has_not_is_refused(written: Path) -> None:
    text = (written / "suite.json").read_text().replace('"exit_code": 0', '"exit_code": NaN')
    (written / "suite.json").write_text(text)
    with pytest.raises(UploadError):
        read_uploads(written)


def test_a_huge_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    with (tmp_path / "suite.json").open("wb") as file:
        file.truncate(50_000_000_000)  # a hole: it takes no room
    with pytest.raises(UploadError, match="at most 4,000,000 bytes"):
        read_uploads(tmp_path)


def test_a_zip_bomb_is_not_unpacked() -> None:
    with pytest.raises(UploadError, match="at most 4,000,000 bytes"):
        read_uploads(archive(suite__json=b"0" * 40_000_000))


def test_a_zip_bomb_whose_header_lies_is_not_unpacked() -> None:
    content = archive(suite__json=b"0" * 40_000_000)
    real, claimed = (number.to_bytes(4, "little") for number in (40_000_000, 100))
    assert content.count(real) >= 2
    with pytest.raises(UploadError):
        read_uploads(content.replace(real, claimed))


def test_a_bomb_of_many_files_is_refused() -> None:
    with pytest.raises(UploadError, match="at most 32 files"):
        read_uploads(archive(**{f"s{n}__json": b"{}" for n in range(1000)}))


def test_an_archive_longer_than_may_be_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "upload.zip"
    with path.open("wb") as file:
        file.truncate(1_000_000_000)
    with pytest.raises(UploadError, match="at most 8,000,000 bytes"):
        read_uploads(path)


NAMES = [
    "../evil.json",
    "/etc/evil.json",
    "a/b.json",
    "..\\evil.json",
    "evil.sh",
    "evil.json/",
    "C:evil/x.json",
    ".json/../x",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_member_that_leads_elsewhere_or_is_no_json_is_refused(name: str) -> None:
    with pytest.raises(UploadError, match="plain JSON files"):
        read_uploads(archive(**{name: b"{}"}))


def test_a_link_in_an_archive_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        link = zipfile.ZipInfo("suite.json")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        made.writestr(link, "/etc/passwd")
    with pytest.raises(UploadError, match="plain JSON files"):
        read_uploads(buffer.getvalue())


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_uncommon_compression_is_refused(method: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as made:
        made.writestr("suite.json", "{}")
    with pytest.raises(UploadError, match="common compression"):
        read_uploads(buffer.getvalue())


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04" + b"\x00" * 100, b"not a zip"])
def test_what_is_no_archive_is_refused(content: bytes) -> None:
    with pytest.raises(UploadError, match="zip archive"):
        read_uploads(content)


def test_an_archive_cut_short_or_with_a_wrong_sum_is_refused(written: Path) -> None:
    whole = archive(suite__json=(written / "suite.json").read_bytes())
    for damaged in (whole[: len(whole) // 2], whole[:200] + b"\x00" * 50 + whole[250:]):
        with pytest.raises(UploadError):
            read_uploads(damaged)


def test_a_link_in_a_folder_is_refused_and_not_followed(written: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.json"
    (written / "suite.json").rename(target)
    (written / "suite.json").symlink_to(target)
    with pytest.raises(UploadError, match="plain files"):
        read_uploads(written)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_a_folder_is_refused_and_not_waited_for(written: Path) -> None:
    os.mkfifo(written / "pipe.json")
    with pytest.raises(UploadError, match="plain files"):
        read_uploads(written)


def test_a_suite_that_was_not_expected_is_refused(written: Path) -> None:
    with pytest.raises(UploadError, match="got suite 'suite'"):
        read_uploads(written, expected=["other"])


def test_a_suite_twice_is_refused(written: Path) -> None:
    (written / "again.json").write_bytes((written / "suite.json").read_bytes())
    with pytest.raises(UploadError, match="each suite once"):
        read_uploads(written)


def test_an_empty_folder_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UploadError):
            read_uploads(folder)


def test_a_verdict_of_twenty_rules_and_fifty_slices_is_far_from_the_largest(judged: Path) -> None:
    findings = read_findings(judged)
    checks = tuple(findings.verdict.checks[0] for _ in range(1000))
    upload = upload_of(findings)
    grown = upload.model_copy(update={"verdict": upload.verdict.model_copy(update={"checks": checks})})
    assert len(grown.as_text().encode()) < uploads.LARGEST_BYTES / 3


def test_an_error_before_anything_was_bound_is_told(judged: Path, tmp_path: Path) -> None:
    """What a run leaves that did not get as far as judging."""
    (judged / "reports/evaluation.json").write_text("{")
    gate.run(judged)
    post.run(post.Request(suite=judged, to=tmp_path / "upload"))
    (upload,) = read_uploads(tmp_path / "upload")
    assert isinstance(upload, Upload)
    assert (upload.verdict.status, upload.verdict.exit_code) == ("error", 4)
