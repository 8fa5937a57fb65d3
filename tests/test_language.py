"""Words and phrases that are gone from product, pages and messages: a native engineer would not write
them."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GONE = (
    r"goes on where",
    r"nobody can tell",
    r"the article",
    r"article's",
    r"is looked at",
    r"of its own accord",
    r"as they stand\b",
    r"\bsite_guard\b",
    r"\brun_guard\b",
    r"\bWatched\b",
    r"\brows_shown\b",
    r"\btokens_per_step\b",
    r"\brows_per_step\b",
    r"\bfinetune_task\.py\b",
)
FILES = ("*.md", "recipes/*.py", "recipes/tools/*.py", "recipes/configs/*.yaml", "Makefile", "demo.py")
HISTORY = ("CHANGELOG.md", "RESULTS.md")  # name what was, as it was then


def product():
    listed = subprocess.run(["git", "ls-files", *FILES], cwd=ROOT, capture_output=True, text=True, check=True)
    names = [name for name in listed.stdout.split() if name not in HISTORY]
    return [ROOT / name for name in names if not (ROOT / name).is_symlink()]  # a link is read where it leads


@pytest.mark.parametrize("phrase", GONE)
def test_a_phrase_that_is_gone(phrase):
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in product()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(phrase, line)
    ]
    assert found == []
