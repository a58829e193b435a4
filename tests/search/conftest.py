"""Journals that a test opened are closed behind it."""

import pytest

from compression_gate.search.journal import Journal


@pytest.fixture(autouse=True)
def closed_journals(monkeypatch):
    opened, begin = [], Journal.__init__

    def noted(journal, path):
        begin(journal, path)
        opened.append(journal)

    monkeypatch.setattr(Journal, "__init__", noted)
    yield
    for journal in opened:
        journal.close()
