"""Files are UTF-8 whatever the locale says: the stages give the same bytes under ISO-8859-1 as under
UTF-8."""

import ast
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.data_prep.test_own_data import put, write_table

ROOT = Path(__file__).resolve().parents[2]
CHAIN = """
import locale, sys
from data_prep import build_documents, build_instructions, build_tasks, clean_documents, describe
print(locale.getpreferredencoding(False))
for path, kind in (("notes", "notes"), ("raw/aerzte", "instructions"), ("raw/pruefung", "choice")):
    describe.main([path, "--kind", kind, "--access", "public", "--license", "Vertrag für Ärzte"])
build_documents.main(["--source", "notes=notes", "--out", "documents"])
build_tasks.main(["--raw", "raw", "--out", "tasks"])
clean_documents.main(["--documents", "documents", "--rows", "tasks", "--plan", "plan.yaml", "--out", "clean"])
flags = ["--sources", "aerzte", "--task_rows", "tasks", "--validation", "0"]
build_instructions.main(["--raw", "raw", "--out", "rows", *flags])
"""


def test_no_text_is_read_or_written_in_the_encoding_of_the_locale():
    found = []
    rooms = ("data_prep", "evaluation", "recipes/release")
    for path in sorted(path for room in rooms for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            opened = isinstance(node, ast.Call) and getattr(node.func, "attr", "") in (
                "write_text",
                "read_text",
            )
            if opened and "encoding" not in {keyword.arg for keyword in node.keywords}:
                found.append(f"{path.name}: {node.lineno}")
    assert not found


def run(folder: Path, **environment) -> tuple[str, dict]:
    """(preferred encoding, {file: sha256}) of the chain in `folder`."""
    notes = [{"id": f"Ü{i}", "text": f"Erfundener Befund {i}: Fieber über 39 °C, µg. " * 6} for i in range(3)]
    questions = [{"question": "Welches Organ schlägt?", "A": "Herz", "B": "Füße", "answer": "A"}]
    write_table(folder / "notes/befunde.csv", notes)
    write_table(folder / "raw/aerzte/zeilen.jsonl", [{"prompt": "Fieber?", "answer": "Über 38 °C."}])
    write_table(folder / "raw/pruefung/fragen.tsv", questions)
    put(folder / "plan.yaml", (ROOT / "data_prep/cleaning_plans/demo.yaml").read_bytes())
    shown = subprocess.run(
        [sys.executable, str(put(folder / "chain.py", CHAIN))],
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        encoding="utf-8",
    )
    assert shown.returncode == 0, shown.stderr[-2000:]
    made = [path for path in folder.rglob("*") if path.is_file()]
    digests = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in made}
    return shown.stdout.split("\n")[0], {
        name: digest for name, digest in digests.items() if ".identity" not in name
    }


def iso_8859_1(folder: Path) -> tuple[str, dict]:
    """(name, environment) of a locale of ISO-8859-1, made here; of an ASCII one where it cannot be made."""
    name, folder = "de_DE.ISO-8859-1", folder / "locales"
    folder.mkdir()
    if shutil.which("localedef"):
        subprocess.run(["localedef", "-i", "de_DE", "-f", "ISO-8859-1", folder / name], capture_output=True)
    if (folder / name).exists():
        return "ISO-8859-1", {"LC_ALL": name, "LOCPATH": str(folder)}
    return "ANSI_X3.4-1968", {"LC_ALL": "C"}


def test_the_chain_gives_the_same_bytes_under_any_locale(tmp_path):
    (tmp_path / "utf8").mkdir()
    (tmp_path / "other").mkdir()
    name, environment = iso_8859_1(tmp_path)
    utf8, expected = run(tmp_path / "utf8", PYTHONUTF8="1")
    other, found = run(tmp_path / "other", PYTHONUTF8="0", **environment)
    assert utf8.lower() == "utf-8" and other == name
    assert found == expected and len(found) > 12
