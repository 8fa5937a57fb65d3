"""Preference pairs: readers, what is dropped and counted, whole groups on one side, lengths said."""

import json

import pytest
import yaml

from data_prep import build_preferences, preferences
from data_prep.files import BadInput
from data_prep.schema import check_pair
from evaluation import rating_page
from evaluation.diagnosis.verdicts import prediction_id
from tests.tiny_model import read_jsonl, rows_of, write_rows

PAIR = {"id": "p", "split": "train", "prompt": "Fever?\n", "chosen": "Rest.", "rejected": "Run."}
PAIR |= {"source": "s", "license": "CC0", "access": "public"}
CARD = {"kind": "preferences", "license": "ours", "access": "gated"}


def questions(count, split="train", start=0):
    found = []
    for i in range(start, start + count):
        [row] = rows_of("medqa", "choice", [(f"Question: which drug {i}?\nAnswer:", "AB"[i % 2])], split)
        options = {"choices": ["A", "B", "C"], "options": [f"zo{i}", f"ba{i}", f"ne{i}"]}
        found.append(row | options | {"id": f"medqa:{split}:{i}", "question": f"Which drug is for case {i}?"})
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """RAW with two sources, and TASKS with multiple choice; every oddity once."""
    root = tmp_path_factory.mktemp("preferences")
    write_rows(root / "tasks", "medqa", questions(20), "train")
    write_rows(root / "tasks", "medqa", questions(2, "test", 100), "test")
    ours = [{"question": f"Dose {i}?", "good": f"{i} mg.", "bad": "No idea at all."} for i in range(10)]
    ours += [
        {"question": "Dose 0?", "good": "0 mg.", "bad": "No idea at all."},  # again
        {"question": "Dose 1?", "good": "No idea at all.", "bad": "1 mg."},  # the other way round
        {"question": "Same?", "good": "yes", "bad": " yes "},
        {"question": "Missing?", "good": "yes", "bad": None},
        {"question": "Long?", "good": "x" * 5000, "bad": "y"},
        {"question": "Which drug is for case 100?", "good": "zo100", "bad": "ba100"},  # a test question
    ]
    (root / "raw/ours").mkdir(parents=True)
    (root / "raw/ours/pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ours))
    columns = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    (root / "raw/ours/source.yaml").write_text(yaml.safe_dump(CARD | columns))

    def said(text):
        return [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}]

    ultra = [
        {"prompt_id": f"q{i // 3}", "label_type": "easy", "prompt": f"Prompt {i // 3}"}
        | {"chosen": said(f"good {i}"), "rejected": said(f"bad {i}")}
        for i in range(30)
    ]
    ultra += [
        ultra[0] | {"label_type": "length", "chosen": said("a longer one")},
        ultra[0] | {"rejected": said("x")[:1]},
    ]
    (root / "raw/ultramedical").mkdir()
    (root / "raw/ultramedical/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ultra))
    return root


def build(root, out, *arguments):
    build_preferences.main(
        ["--raw", str(root / "raw"), "--task_rows", str(root / "tasks"), "--out", str(root / out), *arguments]
    )
    manifest = json.loads((root / out / "manifest.json").read_text())
    splits = {s: read_jsonl(root / out / f"{s}.jsonl") for s in ("train", "validation")}
    return manifest, splits


def counts(manifest, name):
    return {reason: entry["count"] for reason, entry in manifest["dropped"][name].items()}


@pytest.mark.guarantee(
    "Data", "Preference pairs that repeat, contradict or hold an evaluation row are dropped and counted."
)
def test_what_is_dropped_is_counted(root):
    manifest, parts = build(
        root, "ours", "--sources", "ours", "--max_characters", "4000", "--validation", "0.2"
    )
    assert counts(manifest, "ours") == {
        "chosen and rejected are the same": 1,
        "gives an evaluation row away": 1,
        "longer than 4,000 characters": 1,
        "no rejected text": 1,
        "the same pair again": 1,
        "the same pair the other way round": 2,
    }
    pairs = [pair for part in parts.values() for pair in part]
    assert len(pairs) == 9 and "Dose 1?\n" not in {pair["prompt"] for pair in pairs}
    assert {pair["access"] for pair in pairs} == {"gated"} and manifest["access"] == "gated"
    assert manifest["decontamination"]["removed"][0]["evaluation_row"] == "medqa:test:100"
    assert manifest["lengths"]["rejected_longer"] == 1.0 and manifest["lengths"]["chosen_words"] == 2


def test_ultramedical_leaves_length_out_and_keeps_prompts_together(root, capsys):
    manifest, parts = build(root, "ultra", "--sources", "ultramedical", "--validation", "0.3")
    assert counts(manifest, "ultramedical") == {
        "label_type is length": 1,
        "no prompt, or no answer in the last turn": 1,
    }
    sides = [{pair["prompt"] for pair in part} for part in parts.values()]
    assert sum(map(len, parts.values())) == 30 and len(parts["validation"]) == 9
    assert not sides[0] & sides[1], "all pairs of a prompt are on one side"
    assert parts["train"][0]["license"] == "MIT"
    longer, _ = build(root, "again", "--sources", "ultramedical", "--validation", "0.3")
    assert longer["outputs"] == manifest["outputs"], "same inputs, same bytes"
    assert "teaches length" not in capsys.readouterr().out


def test_pairs_from_multiple_choice(root):
    manifest, parts = build(root, "options", "--task_names", "medqa", "--per_question", "2")
    pairs = [pair for part in parts.values() for pair in part]
    assert len(pairs) == 40 and manifest["access"] == "public"
    for pair in pairs:
        number = pair["id"].split(":")[2]
        right = ("zo", "ba")[int(number) % 2] + number
        assert (
            pair["prompt"] == f"Question: Which drug is for case {number}? Answer:\n"
            and pair["chosen"] == right
        )
        assert pair["rejected"] != right and pair["rejected"].endswith(number)
    one, _ = build(root, "one", "--task_names", "medqa", "--size", "medqa=7", "--validation", "0.2")
    assert one["sources"]["medqa"]["taken"] == 7


def test_bad_input_is_one_sentence(root, tmp_path):
    for change, said in (
        ({"rejected": "Rest. "}, "'chosen' and 'rejected' are the same answer"),
        ({"rejected": ""}, "field 'rejected' is empty"),
        ({"prompt": "Fever?"}, "must be text that ends in a newline"),
        ({"better": "x"}, "unknown field 'better'"),
    ):
        with pytest.raises(BadInput, match=said):
            check_pair({**PAIR, **change}, "here")
    with pytest.raises(BadInput, match="field 'rejected' is missing"):
        check_pair({key: value for key, value in PAIR.items() if key != "rejected"}, "here")
    with pytest.raises(SystemExit, match="neither --sources nor --task_names"):
        build_preferences.main(["--out", str(tmp_path / "x")])
    with pytest.raises(SystemExit, match="'nobody' is unknown. Known: rating_page, ultramedical, ours"):
        build(root, "x", "--sources", "nobody")
    assert preferences.names(None) == preferences.NAMES


def test_clinicians_ratings_become_pairs(root, tmp_path):
    """Of a page as evaluation.rating_page makes it, and two raters' exports."""
    names = {"c0": ["Gout", "Pseudogout", "Cellulitis"], "c1": ["Rubella", "Measles"], "c2": ["Lymphoma"]}
    rows = [
        {"id": case, "prompt": f"Case {case}:\n", "question": f"What limps in {case}?", "completion": said[0]}
        | {"license": "ours", "access": "gated", "model_access": "public", "differential": said}
        for case, said in names.items()
    ]
    page, _ = rating_page.contents({"m": {"rows": rows, "facts": {"outputs_sha256": "0"}}}, 0)
    folder = tmp_path / "raw/rating_page"
    folder.mkdir(parents=True)
    text = rating_page.TEMPLATE.read_text().replace("@DATA@", json.dumps(page).replace("<", "\\u003c"))
    (folder / "rate.html").write_text(text)
    verdicts = {
        "AB": {"Gout": "y", "Pseudogout": "n", "Cellulitis": "n", "Rubella": "y", "Measles": "n"},
        "CD": {"Gout": "y", "Pseudogout": "n", "Cellulitis": "u", "Rubella": "n", "Lymphoma": "y"},
    }
    for rater, given in verdicts.items():
        lines = [
            f'"{case}","{prediction_id(case, name)}","{rater}","{given[name]}"'
            for case, said in names.items()
            for name in said
            if name in given
        ]
        lines += ['"c9","0000","AB","y"'] * (rater == "AB")
        (folder / f"ratings_{rater}.csv").write_text("\n".join(["case_id,item,rater,match", *lines]) + "\n")
    arguments = ["--raw", str(tmp_path / "raw"), "--sources", "rating_page", "--out"]
    build_preferences.main([*arguments, str(tmp_path / "out"), "--validation", "0"])
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    pairs = read_jsonl(tmp_path / "out/train.jsonl")
    assert sorted((pair["chosen"], pair["rejected"]) for pair in pairs) == [
        ("Gout", "Cellulitis"),
        ("Gout", "Pseudogout"),
    ]
    assert pairs[0]["prompt"] == "What limps in c0?\n\nWhat is the most likely diagnosis?\n"
    assert counts(manifest, "rating_page") == {
        "a rating of no page here": 1,
        "a tie, or all unsure": 1,
        "no diagnosis is rated right": 1,
        "no diagnosis is rated wrong": 1,
    }
    assert manifest["access"] == "gated" and manifest["inputs"][0]["license"] == "ours"
    (folder / "again.csv").write_text(
        f'case_id,item,rater,match\n"c0","{prediction_id("c0", "Gout")}","AB","n"\n'
    )
    with pytest.raises(SystemExit, match="this rater said otherwise before. Next: keep the later export"):
        build_preferences.main([*arguments, str(tmp_path / "no")])
    (folder / "rate.html").write_text(text.replace('"license"', '"licence"'))
    with pytest.raises(SystemExit, match="no rating page whose cases state license and access"):
        build_preferences.main([*arguments, str(tmp_path / "no")])
