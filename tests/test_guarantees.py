"""The page of promises is the one that the tests make."""

import pytest

from tests import guarantees


def test_the_page_is_made_of_the_marks():
    page = (guarantees.ROOT / "GUARANTEES.md").read_text()
    assert page == guarantees.table(), "Next: python -m tests.guarantees"
    assert page.count("| `tests/") >= 30


@pytest.mark.parametrize("argument", ["--help", "--check"])
def test_a_question_writes_nothing(argument, tmp_path, monkeypatch):
    monkeypatch.setattr(guarantees, "ROOT", tmp_path)
    with pytest.raises(SystemExit):
        guarantees.main([argument])
    assert not list(tmp_path.iterdir())
    guarantees.main([])
    assert (tmp_path / "GUARANTEES.md").read_text() == guarantees.HEAD
