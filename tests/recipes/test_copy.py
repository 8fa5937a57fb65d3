"""Copy a recipe, change `load_data`, run it: with the very lines that README shows."""

import csv
import re

import pytest

from tests.lab import ROOT, SFT, copied, run_json, run_script

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def lab(lab):
    with (lab / "my_pairs.csv").open("w", newline="") as file:
        rows = [("question", "answer"), *((f"Is fever {i} given?", "yes") for i in range(20))]
        csv.writer(file).writerows(rows)
    return lab


def changed(lab, config):
    """argv of a copy of sft.py with README's load_data in place of its own."""
    argv = copied(lab, "sft", config)
    [function] = re.findall(r"```python\n(def load_data.*?)```", README, re.S)
    assert len(function.splitlines()) <= 10
    text = re.sub(
        r"def load_data.*?\n\n\n", lambda _: function + "\n\n", (lab / argv[0]).read_text(), flags=re.S
    )
    (lab / argv[0]).write_text(text.replace("import json\n", "import csv\nimport json\n"))
    return argv


@pytest.mark.guarantee(
    "Recipes", "A copy whose load_data reads a CSV runs after changing that function alone."
)
def test_a_copy_that_reads_a_csv(lab):
    config = {**SFT, "rows": "my_pairs.csv", "access": "gated", "output_dir": "own", "max_steps": 2}
    assert run_script(lab, changed(lab, config)) is None
    record = run_json(lab / "own")
    assert (
        record["status"] == "complete" and record["access"] == "gated" and "my_pairs.csv" in record["inputs"]
    )
    silent = {key: value for key, value in config.items() if key != "access"} | {"output_dir": "no"}
    said = "my_pairs.csv: no manifest.json has its access class. Next: access: public, gated or credentialed"
    assert said in run_script(lab, changed(lab, silent))
    with (lab / "my_pairs.csv").open("a") as file:
        file.write("Is it?,no\n")
    assert "differs in data" in run_script(lab, changed(lab, config)), "its data identify it"


def test_readme_copies_every_module_that_a_recipe_needs():
    [names] = re.findall(r"cp recipes/\{([\w,]+)\}\.py mine/", README)
    from tests.lab import SAFEGUARDS

    assert {f"{name}.py" for name in names.split(",")} == {"sft.py", *SAFEGUARDS}
