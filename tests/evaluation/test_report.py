"""The report on invented run folders: claims, the paper's tables, figures, and the page in a browser."""

import csv
import html
import json
import math
import re
import shutil
import subprocess
import tempfile
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import yaml

from data_prep.files import sha256
from data_prep.schema import load
from evaluation import generate, report, score
from evaluation.reporting import config, formats, intervals, runs
from tests.tiny_model import REPO, rows_of

MODELS = ["backbone", "foundation", "backbone_chat", "chat", "task"]
RIGHT = {"backbone": 10, "foundation": 25, "backbone_chat": 21, "chat": 20, "task": 40}


def answers_of(folder, name, task, rows, outputs, **facts):
    """An evaluation folder as evaluation.generate leaves it, with one more task in it."""
    answers = folder / "eval" / name
    answers.mkdir(parents=True, exist_ok=True)
    (answers / f"{task}.jsonl").write_text(
        "".join(json.dumps(row | {"output": o}) + "\n" for row, o in zip(rows, outputs, strict=True))
    )
    run = (
        json.loads((answers / "run.json").read_text())
        if (answers / "run.json").is_file()
        else {"tasks": {}, "n": 0}
    )
    run |= {
        "access": "gated",
        "name": name,
        "settings": {"preset": "chat", "chat_template": True},
        "model_access": "gated",
        **facts,
    }
    run["tasks"][task] = {"n_overlong": 0, "max_new_tokens": 8}
    run["n"] += len(rows)
    (answers / "run.json").write_text(json.dumps(run))
    return answers


def validated_on(folder, name, blocks):
    """What run.json says of a run that held these blocks of general text out."""
    manifest = folder / f"blocks_{name}" / "manifest.json"
    manifest.parent.mkdir(exist_ok=True)
    manifest.write_text(
        json.dumps({"outputs": [{"split": "validation", "domain": "general", "sha256": blocks}]})
    )
    return {"arguments": {"blocks": str(manifest.parent)}, "inputs": {str(manifest): sha256(manifest)}}


def invented_runs(folder, ratio=1.0, tokens=(50, 60, 70, 80), blocks=("a", "a")):
    """Run and evaluation folders in which model m answers the first RIGHT[m] of 40 rows rightly, and every
    output can be read."""
    for number, name in enumerate(MODELS):
        run = folder / "runs" / name
        run.mkdir(parents=True)
        facts = {
            "stage": "pretrain",
            "access": "public",
            "seconds": 12.5,
            "machine": "a <small> machine",
            "versions": {"torch": "2"},
        }
        (run / "run.json").write_text(json.dumps(facts))
        history = [{"step": s, "loss": 3 - 0.1 * s, "learning_rate": 1e-3} for s in range(1, 6)]
        history += [
            {"step": s, f"eval_{d}_loss": 3.2 - 0.1 * s} for s in (2, 5) for d in ("general", "biomedical")
        ]
        (run / "trainer_state.json").write_text(json.dumps({"log_history": history}))
        if number < 2:
            (run / "run.json").write_text(json.dumps(facts | validated_on(folder, name, blocks[number])))
            extra = math.log(ratio) if name == "foundation" else 0.0
            nll = [t * (2.0 + 0.01 * i + extra) for i, t in enumerate(tokens)]
            (run / "validation.json").write_text(
                json.dumps({"general": {"nll": nll, "tokens": list(tokens)}})
            )
        rows = rows_of(
            "mednli",
            "choice",
            [(f"Is {i} <b>so</b>?", "neutral") for i in range(40)],
            choices=["neutral", "entailment"],
        )
        outputs = ["neutral" if i < RIGHT[name] else "The answer is <i>entailment</i>." for i in range(40)]
        score.score_folder(answers_of(folder, name, "mednli", rows, outputs))


def invented_config(folder, margin=1.1, task="mednli", **changes):
    config = yaml.safe_load((REPO / "evaluation" / "claims" / "demo.yaml").read_text())
    for model in config["models"]:
        model |= {"run": model["name"], "preset": "chat", "tasks": None}
    config["claims"] = [claim for claim in config["claims"] if claim["name"] != "supervised"]
    config["baseline"] = "backbone"
    for claim in config["claims"]:
        claim.update(
            {"tasks": [task], "metric": "accuracy"} if claim["kind"] == "accuracy" else {"margin": margin}
        )
    config.update(changes)
    (folder / "claims.yaml").write_text(yaml.safe_dump(config))


def make_report(folder, *more):
    arguments = [
        "--config",
        folder / "claims.yaml",
        "--evaluation",
        folder / "eval",
        "--runs",
        folder / "runs",
        "--out",
        folder / "report",
    ]
    report.main([str(a) for a in [*arguments, *more]])


def test_the_demo_claims_are_those_that_were_agreed():
    path = REPO / "evaluation" / "claims" / "demo.yaml"
    claims = load(path, config.ReportConfig).model_dump()["claims"]
    assert [(c["name"], c["better"] or c["new"], c["worse"] or c["old"]) for c in claims] == [
        ("knowledge", "foundation", "backbone"),
        ("instructions", "chat", "foundation"),
        ("both", "chat", "backbone_chat"),
        ("supervised", "task", "chat"),
        ("forgetting", "foundation", "backbone"),
    ]
    assert {task for c in claims for task in c["tasks"] or ()} <= set(generate.KNOWN)


def test_verdicts_are_printed_as_they_come_out(tmp_path, capsys):
    invented_runs(tmp_path, ratio=1.05)
    invented_config(tmp_path)
    make_report(tmp_path)
    said = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert re.match(r"knowledge +shown +foundation minus backbone: \+0.375", said["knowledge"])
    assert re.match(r"instructions +contradicted +chat minus foundation: -0.125", said["instructions"])
    assert re.match(r"both +not shown +chat minus backbone_chat: -0.025", said["both"])
    assert re.match(r"forgetting +shown +perplexity of foundation over backbone: 1.050", said["forgetting"])
    for page in ("report.md", "report.html"):
        text = (tmp_path / "report" / page).read_text()
        assert "contradicted" in text and "not shown" in text and "0.769" in text and "toy experiment" in text
    invented_config(tmp_path, margin=1.02)
    make_report(tmp_path)
    assert "forgetting     contradicted" in capsys.readouterr().out
    kept = {"kind": "kept", "statement": "Nothing is lost.", "tasks": ["mednli"], "metric": "accuracy"}
    pairs = (("chat", "backbone_chat", 0.2), ("chat", "backbone_chat", 0.01), ("chat", "foundation", 0.01))
    claims = [
        kept | {"name": f"kept{n}", "new": new, "old": old, "margin": margin}
        for n, (new, old, margin) in enumerate(pairs)
    ]
    invented_config(tmp_path)
    config_file = yaml.safe_load((tmp_path / "claims.yaml").read_text()) | {"claims": claims}
    (tmp_path / "claims.yaml").write_text(json.dumps(config_file))
    make_report(tmp_path)
    said = capsys.readouterr().out
    for number, verdict in enumerate(("shown", "not shown", "contradicted")):
        assert re.search(rf"kept{number} +{verdict} +chat minus .*, margin 0", said)


@pytest.mark.guarantee("Evaluation", "The page loads nothing and is the same every time.")
def test_the_page_loads_nothing_escapes_texts_and_is_the_same_every_time(tmp_path):
    invented_runs(tmp_path)
    invented_config(tmp_path)
    make_report(tmp_path)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "default-src 'none'" in page and not re.search(
        r"<(link|img|iframe|object)\b|@import|url\((?!#)|fetch\(|XMLHttp", page
    )
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)""", page)
    assert "<b>so" not in page and "<i>ent" not in page and "a &lt;small&gt; machine" in page
    assert "access: gated" in page and "eval_" not in page
    forest = (tmp_path / "report" / "forest.svg").read_text()
    assert "Smallest difference that these rows can show (5 %, power of 80 %): 0." in forest
    before = {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()}
    assert sorted(before) == [
        "forest.pdf",
        "forest.svg",
        "overview.pdf",
        "overview.svg",
        "report.html",
        "report.md",
        "tables.csv",
        "tables.tex",
    ]  # no MedNLI in Figure 2
    make_report(tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()} == before


def test_a_model_is_not_printed_on_a_task_that_it_was_not_made_for(tmp_path):
    """Its outputs may still decide a claim, which names them."""
    invented_runs(tmp_path)
    invented_config(tmp_path)
    config = yaml.safe_load((tmp_path / "claims.yaml").read_text())
    config["models"][0]["tasks"], config["baseline"] = ["medqa_ll"], "chat"
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(config))
    make_report(tmp_path)
    text = (tmp_path / "report/report.md").read_text()
    assert "Backbone was not made for mednli: its scores there are left out" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| mednli | macro_f1 | 40 | 0.")]
    assert [cell.strip() for cell in line.split("|")][5] == "–" and "foundation minus backbone: +0.3" in text
    differences = text.split("## Differences to Chat")[1].split("## ")[0]
    assert "| Foundation |" in differences and "| Backbone |" not in differences


def rows_on(folder):
    page = (folder / "report" / "report.html").read_text()
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1]
    )["tasks"]


@pytest.mark.guarantee(
    "Credentialed data",
    "Scored rows of credentialed data, and what a model of such data wrote, are redacted unless asked.",
)
def test_what_is_credentialed_is_left_out_unless_asked_for(tmp_path):
    invented_runs(tmp_path)
    invented_config(tmp_path)
    rows = rows_of(
        "i2b2",
        "entities",
        [("Mark: a secret cough", '<span class="problem">a secret cough</span>')],
        choices=["problem"],
    )
    rows = [row | {"access": "credentialed"} for row in rows]
    for name in MODELS:
        written_by = "credentialed" if name == "chat" else "gated"
        score.score_folder(
            answers_of(
                tmp_path,
                name,
                "i2b2",
                rows,
                ["a secret cough"],
                access="credentialed",
                model_access=written_by,
            )
        )
    make_report(tmp_path)
    assert "secret" not in "".join(
        path.read_text() for path in (tmp_path / "report").iterdir() if path.suffix != ".pdf"
    )
    shown = rows_on(tmp_path)
    assert (
        shown["i2b2"]["rows"] == [{"id": "i2b2:test:0", "hidden": True}]
        and "output" not in shown["i2b2"]["outputs"]["task"][0]
    )
    assert shown["i2b2"]["outputs"]["task"][0]["strict"] == "problem: 0 right of 0, 1 wanted"
    assert (
        shown["mednli"]["rows"][0]["prompt"] == "Is 0 <b>so</b>?\n"
    )  # the public rows of the same run stay open
    assert shown["mednli"]["outputs"]["task"][0]["output"] == "neutral"
    assert (
        "output" not in shown["mednli"]["outputs"]["chat"][0]
    )  # written by a model that was trained on credentialed text
    make_report(tmp_path, "--show_texts")
    shown = rows_on(tmp_path)
    assert (
        "secret" in shown["i2b2"]["rows"][0]["prompt"]
        and shown["mednli"]["outputs"]["chat"][0]["output"] == "neutral"
    )


def test_a_folder_without_a_run_json_has_the_class_of_its_rows(tmp_path):
    rows = rows_of("mednli", "choice", [("Is it so?", "neutral")], choices=["neutral"])
    folder = answers_of(
        tmp_path, "m", "mednli", [row | {"access": "credentialed"} for row in rows], ["neutral"]
    )
    (folder / "run.json").unlink()
    score.score_folder(folder)
    report.main(["--evaluation", str(tmp_path / "eval"), "--out", str(tmp_path / "report")])
    assert "Access class of this report: **credentialed**" in (tmp_path / "report" / "report.md").read_text()
    assert not (tmp_path / "report").stat().st_mode & 0o077


@pytest.mark.guarantee(
    "Credentialed data",
    "An output has the class of the model that wrote it, also as a copy without its run.json.",
)
def test_what_a_model_of_credentialed_data_wrote_is_hidden_also_in_a_folder_of_the_harness(tmp_path):
    row = rows_of("mednli", "choice", [("Is it so?", "neutral")], choices=["neutral"])[0]
    folder, notes = tmp_path / "eval" / "m", tmp_path / "notes"
    for path in (folder, notes):
        path.mkdir(parents=True)
    (notes / "config.json").write_text(json.dumps({"access": "credentialed"}))
    (folder / "samples_mibe_mednli_2026.jsonl").write_text(
        json.dumps({"doc": row, "resps": [["quillfever is neutral"]], "arguments": {}}) + "\n"
    )
    (folder / "results_2026.json").write_text(
        json.dumps({"config": {"model": "hf", "model_args": {"pretrained": str(notes)}}})
    )
    score.score_folder(folder)
    report.main(["--evaluation", str(tmp_path / "eval"), "--out", str(tmp_path / "report")])
    assert "Access class of this report: **credentialed**" in (tmp_path / "report" / "report.md").read_text()
    written = [
        path for path in (*tmp_path.glob("report/*"), *folder.glob("*scored*")) if path.suffix != ".pdf"
    ]
    assert written and not [
        path for path in written if "quillfever" in path.read_text() or path.stat().st_mode & 0o077
    ]
    assert rows_on(tmp_path)["mednli"]["rows"][0]["prompt"] == "Is it so?\n"  # the row itself is public


@pytest.mark.guarantee(
    "Credentialed data",
    "An entry of the allow list (endpoint, agreement, person, date) is the only way out, and every output "
    "made under it records it.",
)
def test_what_a_person_has_signed_stands_on_top(tmp_path):
    rows = rows_of("mednli", "choice", [("Is it so?", "neutral")], choices=["neutral"])
    allowed = {
        "endpoint": "https://llm.hospital.example/v1",
        "agreement": "contract 7",
        "person": "A. Example",
        "date": "2026-11-01",
    }
    score.score_folder(
        answers_of(tmp_path, "m", "mednli", rows, ["neutral"], allowed=[allowed], egress="hook")
    )
    report.main(["--evaluation", str(tmp_path / "eval"), "--out", str(tmp_path / "report")])
    said = "allowed: https://llm.hospital.example/v1 (contract 7; A. Example, 2026-11-01)"
    assert f"<li>{said}</li>" in (tmp_path / "report" / "report.html").read_text()
    assert f"- {said}\n" in (tmp_path / "report" / "report.md").read_text()
    assert "<dt>egress</dt><dd>hook</dd>" in (tmp_path / "report" / "report.html").read_text()


def test_the_paper_is_beside_ours_with_both_scorers_and_what_is_withheld(tmp_path):
    rows = rows_of("medqa", "choice", [(f"Q{i}?", "ABCDE"[i % 5]) for i in range(20)], choices=list("ABCDE"))
    answers_of(tmp_path, "good", "medqa", rows, [f"Answer: {row['completion']}" for row in rows])
    answers_of(tmp_path, "mute", "medqa", rows, ["An answer cannot be given"] * 20)
    rows = rows_of("emrqa", "span", [("Which dose?", "5.0 mg")])
    answers_of(tmp_path, "good", "emrqa", rows, ["5.0 mg"])
    answers_of(tmp_path, "raw", "emrqa", rows, ["no"], settings={"preset": "paper", "chat_template": False})
    score.main([str(tmp_path / "eval" / name) for name in ("good", "mute", "raw")])
    report.main(["--evaluation", str(tmp_path / "eval"), "--out", str(tmp_path / "report")])
    text = (tmp_path / "report" / "report.md").read_text()
    five, six = (text[text.index(f"Table {n}, ") :].split("\n## ")[0] for n in (5, 6))
    line = next(line for line in five.splitlines() if line.startswith("| MedQA | accuracy"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2] == "20 (1,273)" and cells[3:10] == [
        "0.097",
        "0.207",
        "0.143",
        "0.304",
        "0.427",
        "0.376",
        "0.523",
    ]
    assert (
        cells[10] == "1.000 (0.839 to 1.000); paper 0.200; 0.0% unparsed"
    )  # "Answer: C" is A to the paper's scorer
    assert cells[11] == "withheld; paper 0.200; 100.0% unparsed"
    assert "mute, MedQA: 20 of 20 outputs (100.0%) hold no readable answer, more than 5%" in five
    assert (
        "(a) i2b2 of Me-LLaMA 13B-chat is 0.166 in Table 5 and 0.263 in Table 6" in five
        and "0.166 (a)" in five
        and "0.263 (a)" in six
    )
    assert "**raw**" in six and "**raw**" not in five and "Table 4, " not in text
    exact = next(line for line in six.splitlines() if line.startswith("| emrQA | exact match"))
    ours = [cell.strip() for cell in exact.strip("|").split("|")][-3:]
    assert (
        ours[0].startswith("1.000 (0.207 to 1.000); paper ")
        and ours[1] == "–"
        and ours[2].startswith("0.000 (0.000 to 0.793)")
    )
    lines = list(csv.DictReader((tmp_path / "report" / "tables.csv").read_text().splitlines()))
    [mute] = [
        one
        for one in lines
        if (one["model"], one["dataset"], one["metric"], one["table"]) == ("mute", "medqa", "accuracy", "5")
    ]
    assert (
        mute["strict"] == ""
        and float(mute["paper_scorer"]) == 0.2
        and "hold no readable answer" in mute["withheld"]
    )
    assert len([one for one in lines if one["source"] == "paper"]) == 126 + 108
    tex = (tmp_path / "report" / "tables.tex").read_text()
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 2 and "0.166$^{a}$" in tex
    for part in tex.split(r"\end{table}")[:-1]:
        columns = int(re.search(r"\{ll\*\{(\d+)\}", part)[1]) + 2
        assert {line.count(" & ") + 1 for line in part.splitlines() if line.endswith(r" \\")} == {columns}
    page = (tmp_path / "report" / "report.html").read_text()
    assert ">withheld</span>" in page and "paper 0.200" in page and "20 rows, paper 1,273" in page
    assert (
        "After the paper&#39;s Figure 2" in page
        or "After the paper's Figure 2" in page
        and (tmp_path / "report" / "figure2.pdf").stat().st_size > 1000
    )


def test_a_big_run_shows_its_first_rows_and_counts_the_rest(tmp_path):
    rows = rows_of(
        "mimic_cxr", "summary", [(f"Findings {i}. " + "word " * 3000 * (i == 0), "No.") for i in range(30)]
    )
    score.score_folder(answers_of(tmp_path, "one", "mimic_cxr", rows, ["No."] * 30))
    report.main(["--evaluation", str(tmp_path / "eval"), "--out", str(tmp_path / "report"), "--rows", "7"])
    shown = rows_on(tmp_path)["mimic_cxr"]
    assert (
        len(shown["rows"]) == 7
        and shown["n"] == 30
        and shown["rows"][0]["prompt"].endswith("more characters)")
    )
    assert "7 of 30 rows of mimic_cxr" in (tmp_path / "report" / "report.html").read_text()


# ---------------------------------------------------------------- in a browser
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
         "--virtual-time-budget=2000"]  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    invented_runs(folder)
    invented_config(folder)
    rows = rows_of(
        "medqa",
        "choice",
        [(f"Which drug is number {i}?", "AB"[i % 2]) for i in range(30)],
        choices=["A", "B"],
    )
    for name in MODELS:
        score.score_folder(
            answers_of(
                folder, name, "medqa", rows, [f"Answer: {'AB'[i % 3 % 2]}" if i else "" for i in range(30)]
            )
        )
    make_report(folder)
    return folder


def views(page, *wanted):
    """What the browser makes of the page at each (fragment, width): its own width, what it needs, the open
    dialog's headline, row ids and text. All in one start of the browser, each in a frame: a window cannot be
    made as narrow as a phone."""
    if not BROWSER:
        pytest.skip("no Chromium or Chrome on this machine")
    says = """const d = document.querySelector("dialog");
        const ids = [...d.querySelectorAll("h3")].map(h => h.textContent);
        const open = d.open ? [document.getElementById("what").textContent, ids, d.textContent] : null;
        parent.postMessage([innerWidth, document.documentElement.scrollWidth, d.scrollWidth, open], "*")"""
    (page / "report" / "probe.html").write_text(
        (page / "report" / "report.html").read_text().replace("</body>", f"<script>{says}</script></body>")
    )
    hears = """const frames = [...document.querySelectorAll('iframe')], heard = [];
        onmessage = event => {
        heard[frames.findIndex(frame => frame.contentWindow === event.source)] = event.data;
        document.querySelector('pre').textContent = JSON.stringify(heard) }"""
    frames = "".join(
        f"<iframe width={width} height=800 style='border:0' src='probe.html{fragment}'></iframe>"
        for fragment, width in wanted
    )
    host = page / "report" / "frames.html"
    host.write_text(f"<body><pre></pre>{frames}<script>{hears}</script>")
    for _ in range(3):  # on a busy machine a frame may answer after the page was dumped
        profile = tempfile.mkdtemp()
        command = [
            BROWSER,
            *FLAGS,
            f"--user-data-dir={profile}",
            "--window-size=1400,900",
            "--dump-dom",
            host.as_uri(),
        ]
        try:
            dumped = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        finally:
            shutil.rmtree(profile, ignore_errors=True)
        heard = json.loads(html.unescape(re.search(r"<pre>(.*?)</pre>", dumped, re.DOTALL)[1]) or "[]")
        if len(heard) == len(wanted) and None not in heard:
            return heard
    raise AssertionError(f"the browser answered for {len(heard)} of {len(wanted)} frames")


def test_a_cell_opens_its_rows_an_id_finds_its_row_and_nothing_sticks_out(page):
    assert 'href="#rows/medqa/chat"' in (page / "report" / "report.html").read_text()
    wanted = [
        ("", 1280),
        ("", 390),
        ("#rows/medqa/chat", 1280),
        ("#rows/medqa/chat", 390),
        ("#id/mednli%3Atest%3A7", 390),
        ("#id/no-such", 390),
    ]
    found = views(page, *wanted)
    for (_, width), (inner, whole, dialog, _) in zip(wanted, found, strict=True):
        assert inner == width and whole <= width and dialog <= width
    closed, _, rows, narrow, by_id, nothing = (dialog for *_, dialog in found)
    assert closed is None and narrow == rows
    what, ids, text = rows
    assert what == "medqa: 30 of the 30 rows on this page, of 30" and ids == [
        f"medqa:test:{i}" for i in range(20)
    ]
    assert "Show 10 more" in text and "Which drug is number 1?" in text and "parsed: nothing" in text
    assert (
        "parsed by the paper's scorer: A" in text
        and "strict: accuracy 1.000" in text
        and "paper: accuracy 0.000" in text
    )
    what, ids, text = by_id
    assert ids == ["mednli:test:7"] and "Is 7 <b>so</b>?" in text
    assert text.count("strict: accuracy") == len(MODELS) and "The answer is <i>entailment</i>." not in text
    assert nothing[1] == [] and "No such row on this page" in nothing[2]


def test_models_that_were_asked_differently_are_not_put_in_one_table(tmp_path):
    invented_runs(tmp_path)
    invented_config(tmp_path)
    config = yaml.safe_load((tmp_path / "claims.yaml").read_text())
    config["models"][0]["preset"] = "paper"
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(config))
    paths = ["--evaluation", tmp_path / "eval", "--runs", tmp_path / "runs", "--out", tmp_path / "report"]
    with pytest.raises(SystemExit, match="was asked with preset chat, .*other.yaml says paper"):
        report.main([str(a) for a in ["--config", tmp_path / "other.yaml", *paths]])
    scores = tmp_path / "eval" / "chat" / "scores.json"
    fewer = json.loads(scores.read_text())
    fewer["mednli"]["n"] = 39
    scores.write_text(json.dumps(fewer))
    with pytest.raises(SystemExit, match="mednli: the models answered different rows .*chat 39"):
        make_report(tmp_path)


def test_what_is_missing_is_named_with_the_command(tmp_path):
    invented_runs(tmp_path)
    invented_config(tmp_path)
    for flag, said in (
        ("--runs", "--runs .*juged: no such folder. Next: "),
        ("--forgetting", "--forgetting .*juged: no such file. Next: python -m evaluation.forgetting"),
        ("--diagnosis", "juged/summary.json: no such file. Next: python -m evaluation.judge"),
        ("--out", "is a file, and the output is a folder. Next: another --out"),
    ):
        with pytest.raises(SystemExit, match=said):
            make_report(tmp_path, flag, tmp_path / ("claims.yaml" if flag == "--out" else "juged"))
    invented_config(tmp_path, task="medqa_ll")
    with pytest.raises(
        SystemExit,
        match="no scores of medqa_ll. Next: python -m evaluation.generate .*foundation.*--preset chat",
    ):
        make_report(tmp_path)
    invented_config(tmp_path)
    (tmp_path / "eval" / "chat" / "scores.json").unlink()
    with pytest.raises(SystemExit, match="Next: python -m evaluation.score .*chat"):
        make_report(tmp_path)
    (tmp_path / "eval" / "chat" / "run.json").unlink()
    with pytest.raises(
        SystemExit,
        match="chat: no answers of this model. Next: .*evaluation.generate .*--preset chat .*--tasks mednli",
    ):
        make_report(tmp_path)
    (tmp_path / "runs" / "chat" / "run.json").unlink()
    with pytest.raises(SystemExit, match="chat/run.json: no such run. Next: make demo"):
        make_report(tmp_path)
    invented_config(tmp_path, claims=[{"kind": "accuracy", "name": "x", "statement": "x", "new": "chat"}])
    with pytest.raises(
        SystemExit, match="claims.yaml: claims: 0: missing or unknown: better, metric, new, tasks, worse"
    ):
        make_report(tmp_path)
    invented_config(
        tmp_path, models=[{"name": "backbone", "label": "Backbone", "what": "x", "and more": None}]
    )
    with pytest.raises(SystemExit, match="claims.yaml: models: 0: preset: missing"):
        make_report(tmp_path)
    assert not (tmp_path / "report").exists()


def test_models_that_were_not_validated_on_the_same_blocks_are_not_compared(tmp_path):
    """Other blocks of as many tokens, blocks that were made anew since, and fewer blocks."""
    invented_runs(tmp_path, blocks=("a", "b"))
    invented_config(tmp_path)
    said = "claim 'forgetting': the two models were not validated on the same blocks"
    with pytest.raises(SystemExit, match=said):
        make_report(tmp_path)
    invented_config(tmp_path, claims=[])
    make_report(tmp_path)
    table = (tmp_path / "report" / "report.md").read_text().split("## Perplexity")[1].split("##")[0]
    assert re.search(r"\| general \| 7\.5\d \| – \|", table) and "Each line is of the same blocks" in table
    record = tmp_path / "runs" / "foundation" / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | validated_on(tmp_path, "foundation", "a")))
    make_report(tmp_path)
    text = (tmp_path / "report" / "report.md").read_text()
    assert re.search(r"\| general \| 7\.5\d \| 7\.5\d \|", text)
    assert "Smallest change of the ratio of two that these rows can show (5 %, power of 80 %): 0." in text
    invented_config(tmp_path)
    path = tmp_path / "runs" / "foundation" / "validation.json"
    path.write_text(json.dumps({"general": {"nll": [100.0], "tokens": [50]}}))
    with pytest.raises(SystemExit, match=said):
        make_report(tmp_path)
    validated_on(tmp_path, "foundation", "c")  # run.json has the hash of the manifest that was
    with pytest.raises(SystemExit, match=said):
        make_report(tmp_path)


def test_the_numbers_of_the_paper_name_their_table_and_their_conflicts():
    paper = json.loads((REPO / "evaluation" / "reporting" / "paper_tables.json").read_text())
    tables = {name: table for name, table in paper.items() if name.startswith("table")}
    assert len(tables) == 5 and all(
        table["source"].startswith(f"Table {name[5]}") for name, table in tables.items()
    )
    for table in tables.values():
        for record in table["records"]:
            assert all(note in paper["footnotes"] for note in record.get("footnote", "a").split(", "))
            assert "models" not in table or record["model"] in table["models"]
    i2b2 = [
        r
        for t in tables.values()
        for r in t["records"]
        if r.get("dataset") == "i2b2" and r.get("footnote") == "a"
    ]
    assert [r["value"] for r in i2b2] == [0.166, 0.263]


def test_the_report_holds_table_1_with_ours_and_the_papers_claims(tmp_path):
    invented_runs(tmp_path)
    for name, facts in (("foundation", {"tokens_seen": 12345}), ("chat", {"stage": "sft", "rows": 321})):
        path = tmp_path / "runs" / name / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    invented_config(tmp_path)
    make_report(tmp_path)
    text, page = ((tmp_path / "report" / name).read_text() for name in ("report.md", "report.html"))
    assert "| PMC-LLaMA | LLaMA | 7/13B | yes | no | 79B | 514K | 04/27/2023 |" in text
    assert "| **Foundation** | – | – | – | – | 12,345 | – | – |" in text and "| – | 321 | – |" in text
    assert "contradicted" in text.split("claims on its own tables")[1] and "514K" in page


# ---------------------------------------------------------------- no untruth, and no code in a name
def supervised_run(folder, stage="sft", rows="tasks/i2b2", manifest=None, **arguments):
    """The record of a run that read `rows`, whose manifest.json is `manifest`."""
    if manifest is not None:
        (folder / rows).mkdir(parents=True, exist_ok=True)
        (folder / rows / "manifest.json").write_text(json.dumps(manifest))
    return {"stage": stage, "arguments": {"rows": str(folder / rows), **arguments}}


@pytest.mark.parametrize(
    ("facts", "task"),
    [
        ({"stage": "finetune_task"}, "i2b2"),
        ({"manifest": {"task": "i2b2"}}, "i2b2"),
        ({"rows": "elsewhere/mine", "manifest": {"task": "hoc"}}, "hoc"),
        ({"rows": "tasks/i2b2"}, "i2b2"),
        ({"rows": "instructions", "manifest": {"stage": "build_instructions"}}, None),
        ({"rows": "instructions"}, None),
        ({"chat_template_path": "recipes/chat_template.jinja"}, None),
        ({"stage": "pretrain"}, None),
    ],
)
def test_the_run_record_says_which_task_a_model_was_fine_tuned_on(tmp_path, facts, task):
    run = supervised_run(tmp_path, **facts)
    assert runs.supervised_task(run) == task
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/run.json").write_text(json.dumps(run))
    merged = {"stage": "merge_adapter", "arguments": {"adapter": str(tmp_path / "adapter")}}
    assert runs.supervised_task(merged) == task, "a merged adapter has the task of the adapter"


@pytest.mark.parametrize("stage", ["sft", "finetune_task"])
def test_a_fine_tuned_model_has_scores_on_its_own_task_and_on_no_other(tmp_path, stage):
    trained = tmp_path / "outputs/task"
    trained.mkdir(parents=True)
    (trained / "run.json").write_text(json.dumps(supervised_run(tmp_path, stage, manifest={"task": "i2b2"})))
    marked = [("Mark: a cough", '<span class="problem">a cough</span>')]
    for task, scoring, pairs, output in (
        ("i2b2", "entities", marked, '<span class="problem">a cough</span>'),
        ("emrqa", "span", [("Which dose?", "5.0 mg")], "a cough"),
    ):
        rows = rows_of(task, scoring, pairs, **({"choices": ["problem"]} if task == "i2b2" else {}))
        for name, facts in (("task", {"model": str(trained)}), ("raw", {"settings": {"preset": "chat"}})):
            answers_of(tmp_path, name, task, rows, [output], **facts)
    score.main([str(tmp_path / "eval" / name) for name in ("task", "raw")])
    report.main(["--evaluation", str(tmp_path / "eval"), "--out", str(tmp_path / "report")])
    text = (tmp_path / "report/report.md").read_text()
    four = text[text.index("Table 4, ") :].split("\n## ")[0]
    ours = {
        line.split("|")[1].strip(): line.split("|")[-2].strip() for line in four.splitlines() if "|" in line
    }
    assert ours["i2b2"].startswith("1.000") and ours["emrQA"] == "–"
    scores = text[text.index("## Scores") :].split("\n## ")[0]
    assert re.search(r"\| emrqa \| word_f1 \| 1 \| 0\.\d+ \| 0\.000 [^|]*\| – \|", scores)
    assert "task was fine-tuned on i2b2: its scores on emrqa are left out" in scores
    assert list(rows_on(tmp_path)["emrqa"]["outputs"]) == ["raw"]


def test_answers_with_examples_in_the_prompt_have_a_table_of_their_own(tmp_path):
    rows = rows_of("medqa", "choice", [("Q?", "A")], choices=["A", "B"])
    settings = {"preset": "paper", "chat_template": False, "num_fewshot": 5}
    score.score_folder(answers_of(tmp_path, "m", "medqa", rows, ["Answer: A"], settings=settings))
    report.main(["--evaluation", str(tmp_path / "eval"), "--out", str(tmp_path / "report")])
    text = (tmp_path / "report/report.md").read_text()
    assert (
        "**m, 5 examples**" in text and "\n## Few-shot, on the datasets" in text and "Table 6, " not in text
    )


HOSTILE = (
    '0" onload="alert(1)" x="',
    r"back\slash\1",
    "$x{$",
    "=HYPERLINK(1)",
    "_hidden",
    "<b>|](u)",
    "a^b~c",
    "\u202eevil",
)


def attributes(page):
    """The names of all attributes of all elements."""
    found, parser = [], HTMLParser()
    parser.handle_starttag = lambda tag, given: found.extend(name for name, _ in given)
    parser.feed(page)
    return found


def test_the_name_of_a_model_may_hold_any_character(tmp_path):
    invented_runs(tmp_path)
    labels = [{"name": name, "label": label, "preset": "chat", "what": label, "run": name, "tables": [5]}
              for name, label in zip(MODELS, HOSTILE, strict=False)]  # fmt: skip
    labels[0]["label"], labels[1]["label"] = HOSTILE[5:7]
    rows = rows_of("medqa", "choice", [("Q?", "A")], choices=["A", "B"])
    for name in MODELS:
        score.score_folder(answers_of(tmp_path, name, "medqa", rows, ["Answer: A"]))
    for shown in (labels, [one | {"label": HOSTILE[number]} for number, one in enumerate(labels)]):
        (tmp_path / "claims.yaml").write_text(yaml.safe_dump({"title": "T", "about": "A", "models": shown}))
        make_report(tmp_path)
        page = (tmp_path / "report/report.html").read_text()
        assert not [name for name in attributes(page) if name.startswith("on")] and "<b>|" not in page
        for path in (tmp_path / "report").glob("*.svg"):
            ElementTree.fromstring(path.read_text())
        drawn = "".join(html.unescape(path.read_text()) for path in (tmp_path / "report").glob("*.svg"))
        assert all(formats.printable(one["label"]) in drawn for one in shown), "every name is in a legend"
        tex = (tmp_path / "report/tables.tex").read_text()
        assert not re.search(r"(?<!\\)[~<>]|(?<!\\)\^(?!\{)", tex)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_folder_of_any_name_is_text_in_every_format(tmp_path, name):
    rows = rows_of("medqa", "choice", [("Q?", "A")], choices=["A", "B"])
    folder = tmp_path / "eval" / name.replace("/", "")
    answers_of(tmp_path, folder.name, "medqa", rows, ["Answer: A"])
    score.score_folder(folder)
    arguments = ["--evaluation", str(tmp_path / "eval"), "--out", str(tmp_path / "report")]
    if formats.printable(name) != name:
        with pytest.raises(SystemExit, match="a name that cannot be printed. Next: rename it"):
            report.main(arguments)
        return
    report.main(arguments)
    for line in csv.reader((tmp_path / "report/tables.csv").read_text().splitlines()):
        assert not any(cell.startswith(("=", "+", "@")) for cell in line)
    assert rf"{formats.latex_text(name)}" in (tmp_path / "report/tables.tex").read_text()
    assert "](u)" not in (tmp_path / "report/report.md").read_text()


def test_the_first_screen_holds_a_picture_which_can_be_written_for_a_readme(tmp_path):
    invented_runs(tmp_path)
    invented_config(tmp_path)
    make_report(tmp_path, "--picture", tmp_path / "picture.svg")
    page = (tmp_path / "report/report.html").read_text()
    assert page.index('<figure class="overview"><svg') < page.index("<p>") and "toy experiment" in page
    picture = (tmp_path / "picture.svg").read_text()
    assert 'fill="white"' in picture and "contradicted" in picture and "Foundation" in picture
    ElementTree.fromstring(picture)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ((0.5, 0.25, 0.75), "0.500 (0.250 to 0.750)"),
        ((None, None, None), "not defined"),
        ((0.5, None, None), "0.500"),
        ((math.nan, 0, 1), "not defined"),
    ],
)
def test_an_interval_is_written_one_way(cells, said):
    assert formats.format_interval(*cells) == said
    assert (
        formats.format_difference({"difference": 0.1, "low": -0.1, "high": 0.3})
        == "+0.100 (-0.100 to +0.300)"
    )


def test_no_interval_is_without_width(tmp_path):
    """All rows right, and two models that differ on none."""
    rows = rows_of("medqa", "choice", [(f"{i}?", "A") for i in range(20)], choices=["A", "B"])
    for name in ("one", "two"):
        score.score_folder(answers_of(tmp_path, name, "medqa", rows, ["Answer: A"] * 20))
    report.main(["--evaluation", str(tmp_path / "eval"), "--out", str(tmp_path / "report")])
    text = (tmp_path / "report/report.md").read_text()
    assert "1.000 (0.839 to 1.000)" in text and "| +0.000 (-0.161 to +0.161) |" in text
    assert intervals.with_width({"value": 0.5, "low": 0.4, "high": 0.6}, 9)["low"] == 0.4
    assert intervals.difference_with_width(None, None, None, 9) == (None, None)
