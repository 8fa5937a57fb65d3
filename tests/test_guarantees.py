"""The page of promises is the one that the tests make."""

from tests import guarantees


def test_the_page_is_made_of_the_marks():
    page = (guarantees.ROOT / "GUARANTEES.md").read_text()
    assert page == guarantees.table(), "Next: python -m tests.guarantees"
    assert page.count("| `tests/") >= 30
