"""Journals: what is written is read back, what is cut is dropped, what is damaged is refused."""

import pytest

from compression_gate.errors import SearchError
from compression_gate.records.trial import Answer
from compression_gate.search.journal import Answered, Asked, Header, Reference, begin, resume

HEADER = Header(digest="a", told={"space": "s", "rules": "r"})
EVENTS = [
    Reference(answer=Answer(figures={"accuracy": 0.9}, verdict="pass")),
    Asked(number=0, genome={"0.pick": "x", "0.place": 0.25}, origin="random"),
    Answered(number=0, share=1.0, answer=Answer(reason="crashed: exit 1"), at_s=1.5),
]


@pytest.fixture
def path(tmp_path):
    journal = begin(tmp_path / "journal.jsonl", HEADER)
    for event in EVENTS:
        journal.append(event)
    journal.close()
    return tmp_path / "journal.jsonl"


def test_events_come_back_in_order(path):
    journal, events = resume(path, HEADER)
    found = list(events)
    assert [event for _, event in found] == EVENTS
    assert journal.answered_at(found[-1][0]) == EVENTS[-1]


def test_a_journal_goes_on_where_it_ended(path):
    journal, _ = resume(path, HEADER)
    more = Asked(number=1, genome={}, origin="random")
    journal.append(more)
    journal.close()
    assert [event for _, event in resume(path, HEADER)[1]] == [*EVENTS, more]


def test_a_cut_line_is_dropped_wherever_it_was_cut(path):
    whole = path.read_bytes()
    start = whole[:-1].rfind(b"\n") + 1
    for end in (start + 1, (start + len(whole)) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert [event for _, event in resume(path, HEADER)[1]] == EVENTS[:-1]
        assert path.read_bytes() == whole[:start]


def test_a_journal_cut_within_its_first_line_begins_anew(path):
    path.write_bytes(path.read_bytes()[:10])
    journal, events = resume(path, HEADER)
    journal.close()
    assert list(events) == []
    assert list(resume(path, HEADER)[1]) == []


DAMAGED = {
    "no JSON": b"garbage\n",
    "another event": b'{"event": "guessed", "number": 3}\n',
    "no event": b"[1, 2]\n",
    "a field too many": b'{"event": "asked", "number": 0, "genome": {}, "origin": "x", "extra": 1}\n',
}


@pytest.mark.parametrize("line", DAMAGED.values(), ids=DAMAGED)
def test_damage_before_the_last_line_is_refused_with_its_line(path, line):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], line, *lines[2:]]))
    with pytest.raises(SearchError, match=r"journal\.jsonl:3: .*damaged"):
        list(resume(path, HEADER)[1])


def test_a_journal_of_another_search_says_what_differs(path):
    with pytest.raises(SearchError, match="one with other rules"):
        resume(path, Header(digest="b", told={"space": "s", "rules": "other"}))


def test_no_journal_cannot_be_resumed(tmp_path):
    with pytest.raises(SearchError, match="leave --resume out"):
        resume(tmp_path / "journal.jsonl", HEADER)


def test_what_is_no_journal_is_refused(tmp_path):
    (tmp_path / "journal.jsonl").write_text("hello\n")
    with pytest.raises(SearchError, match="expected the first line of a journal"):
        resume(tmp_path / "journal.jsonl", HEADER)
