"""Copy a recipe, change `load_data`, run it: the lines that README shows, as a lab would change them."""

import csv
import re

import pytest

from tests.lab import ROOT, SFT, build_lab, copied, recipe, run_json, run_script

CSV = '''def load_data(args):
    """{"train", "validation"} of a CSV with the columns question and answer."""
    run, training, _ = args
    with open(run.rows, newline="", encoding="utf-8") as file:
        pairs = [(row["question"], row["answer"]) for row in csv.DictReader(file)]
    turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in pairs]
    rows = Dataset.from_list([{"messages": talk} for talk in turns])
    return rows.train_test_split(test_size=0.1, seed=training.seed) | {}
'''


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    root = build_lab(tmp_path_factory.getbasetemp() / "lab")
    with (root / "notes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("question", "answer"), *((f"Is fever {i} given?", "yes") for i in range(20))])
    return root


def changed(lab, config, function=CSV):
    argv = copied(lab, "sft", config)
    path = lab / argv[0]
    text = re.sub(r"def load_data.*?\n\n\n", lambda _: function + "\n\n", path.read_text(), flags=re.S)
    path.write_text(text.replace("import json\n", "import csv\nimport json\n"))
    return argv


@pytest.mark.guarantee(
    "Recipes", "A copy whose load_data reads a CSV runs after changing that function alone."
)
def test_a_copy_that_reads_a_csv(lab):
    function = CSV.replace("    return rows.train_test_split(test_size=0.1, seed=training.seed) | {}\n",
                           "    parts = rows.train_test_split(test_size=0.1, seed=training.seed)\n"
                           '    return {"train": parts["train"], "validation": parts["test"]}\n')  # fmt: skip
    config = {**SFT, "rows": "notes.csv", "access": "credentialed", "output_dir": "own", "max_steps": 2}
    assert run_script(lab, changed(lab, config, function)) is None
    record = run_json(lab / "own")
    assert (
        record["status"] == "complete"
        and record["access"] == "credentialed"
        and "notes.csv" in record["inputs"]
    )
    assert "notes.csv: no manifest.json has its access class. Next: access:" in run_script(
        lab,
        changed(
            lab,
            {key: value for key, value in config.items() if key != "access"} | {"output_dir": "no"},
            function,
        ),
    )
    with (lab / "notes.csv").open("a") as file:
        file.write("Is it?,no\n")
    assert "differs in data" in run_script(lab, changed(lab, config, function)), "its data identify it"


def test_readme_shows_this_copy():
    readme = (ROOT / "README.md").read_text()
    for line in CSV.splitlines()[2:7]:
        assert line.strip() in readme


def test_an_unchanged_copy_runs_elsewhere(lab):
    assert recipe(lab, "sft", {**SFT, "output_dir": "elsewhere", "max_steps": 1}) is None
