"""The rating page, in a browser: keys, autosave, export and import, and what it must not do."""

import html
import json
import re
import shutil
import subprocess

import pytest

from evaluation import judge, rating_page
from evaluation.diagnosis.verdicts import prediction_id
from tests.evaluation.test_diagnosis import CASES, GOOD, POOR, case_of, run_of
from tests.evaluation.test_report import BROWSER, FLAGS

HOSTILE = (
    'A limp.</script><script>document.title = "broken"</script><img src=x onerror="document.title=1"> '
    '& "quotes" \u2028 end'
)


@pytest.fixture
def page(tmp_path):
    """Two models on four cases; the first case would end the script that holds it."""
    cases = [case_of(0, "Gout", text=HOSTILE), *CASES[1:4]]
    runs = [str(run_of(tmp_path / "alpha", GOOD[:4], cases)), str(run_of(tmp_path / "beta", POOR[:4], cases))]
    rating_page.main([*runs, "--out", str(tmp_path / "rate.html")])
    return tmp_path


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', (page / "rate.html").read_text(), re.DOTALL)[1])


@pytest.mark.guarantee("Clinical cases and forgetting", "The rating page names no model and loads nothing.")
def test_the_page_names_no_model_holds_each_prediction_once_and_loads_nothing(page):
    text, data = (page / "rate.html").read_text(), data_of(page)
    assert (
        "alpha" not in text
        and "beta" not in text
        and not re.search(r"https?:|src=[\"']|@import|url\(", text.replace(json.dumps(HOSTILE)[1:-1], ""))
    )
    assert (
        "default-src 'none'" in text
        and next(case for case in data["cases"] if case["id"] == "c0")["text"] == HOSTILE
    )
    assert {case["id"]: sorted(p["name"] for p in case["predictions"]) for case in data["cases"]} == {
        "c0": ["Cellulitis", "Gout", "Pseudogout"],
        "c1": ["Rubella", "Rubeola"],
        "c2": ["DLBCL", "Lymphoma", "Sarcoidosis"],
        "c3": ["COPD", "Pneumonia"],
    }
    key = json.loads((page / "rate.html.key.json").read_text())
    assert key["page"] == data["page"] and key["items"][prediction_id("c0", "Gout")] == {
        "case": "c0",
        "ranks": {"alpha": 1, "beta": 2},
    }
    again = page / "again.html"
    rating_page.main([str(page / "alpha"), str(page / "beta"), "--out", str(again)])
    assert again.read_text() == text
    rating_page.main([str(page / "beta"), str(page / "alpha"), "--out", str(again)])
    assert (
        json.loads(re.search(r'id="data">(.*?)</script>', again.read_text(), re.DOTALL)[1])["page"]
        == data["page"]
    ), "blind to the order of the runs"
    rating_page.main(
        [str(page / "alpha"), str(page / "beta"), "--seed", "1", "--limit", "2", "--out", str(again)]
    )
    assert again.read_text() != text and again.read_text().count('"diagnosis":') == 2


PROBE = """
const press = key => dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const seen = () => [at("case").textContent, at("count").textContent, at("said").textContent];
const exported = [], wait = () => new Promise(done => setTimeout(done, 50));
const RealBlob = Blob;
 // what is read back of a blob comes in real time, which the browser's virtual time does not wait for
Blob = function (parts, kind) { exported.push(parts.join("")); return new RealBlob(parts, kind); };
URL.createObjectURL = () => "#";
let refused = 0, imported = "";
RealBlob.prototype.text = async () => imported;
addEventListener("securitypolicyviolation", () => refused++);
(async () => {
  const found = JSON.parse(sessionStorage.getItem("found") || "{}");
  if (!found.first) {
    at("export").click(); found.nameless = [seen()[2], exported.length];
    at("rater").value = "A, \\"B\\""; at("rater").dispatchEvent(new Event("input"));
    document.querySelector("li:not(.here) .u").focus(); press("n");
    const chosen = line => line.querySelector("[aria-pressed=true]")?.className || "";
    found.focused = [[...document.querySelectorAll("li")].map(chosen), document.activeElement.className];
    press("ArrowDown"); press("x"); press("ArrowUp");
    press("y"); press("N"); found.first = seen();
    press("ArrowRight"); press("u"); press("ArrowUp"); press("x"); press("y"); found.second = seen();
    press("ArrowLeft"); press("ArrowLeft");
    const pressed = [...document.querySelectorAll("[aria-pressed=true]")];
    found.back = [seen(), pressed.map(b => b.getAttribute("aria-label"))];
    sessionStorage.setItem("found", JSON.stringify(found));
    return location.reload();
  }
  found.reloaded = [seen(), at("rater").value, [...document.querySelectorAll("[aria-pressed=true]")].length];
  while (+at("bar").value < items.size)
    press(document.querySelector("li.here [aria-pressed=true]") ? "ArrowRight" : "n");
  found.all = seen();
  at("export").click(); found.csv = exported[0];
  confirm = () => false; at("anew").click(); found.kept = seen()[1]; confirm = () => true;
  at("anew").click(); found.emptied = seen()[1];
  const files = new DataTransfer(); files.items.add(new File([], "r.csv"));
  imported = "\\ufeff" + found.csv + '"c9","0000","AB","y"\\r\\n';
  at("import").files = files.files; at("import").dispatchEvent(new Event("change")); await wait();
  found.imported = [seen(), csv() === found.csv, state.rater];
  await fetch("http://127.0.0.1:9/").catch(() => 0); await wait();
  found.title = document.title; found.refused = refused;
  found.shown = data.cases.findIndex(c => c.id === "c0"); turn(found.shown);
  found.text = at("text").textContent;
  document.body.innerHTML = "<pre></pre>"; document.querySelector("pre").textContent = JSON.stringify(found);
})();
"""


def browse(page, name, size="1280,900"):
    if not BROWSER:
        pytest.skip("no Chromium or Chrome on this machine")
    command = [
        BROWSER,
        *FLAGS,
        f"--user-data-dir={page / 'profile'}",
        f"--window-size={size}",
        "--dump-dom",
        (page / name).as_uri(),
    ]
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    shutil.rmtree(page / "profile", ignore_errors=True)
    return json.loads(html.unescape(re.search(r"<pre>(.*?)</pre>", dumped, re.DOTALL)[1]))


def test_keys_rate_a_reload_keeps_them_and_the_export_is_read_back(page):
    (page / "probe.html").write_text(
        (page / "rate.html").read_text().replace("show();\n</script>", f"show();\n{PROBE}</script>")
    )
    found, data = browse(page, "probe.html"), data_of(page)
    assert found["nameless"] == ["Write your name or initials first: the file tells who rated.", 0]
    total = sum(len(case["predictions"]) for case in data["cases"])
    assert found["focused"] == [["", "n"], "u"], (
        "a key rates the line that has the focus, and the focus goes on to the next"
    )
    assert found["kept"] == found["all"][1], "a new rater begins only if that is confirmed"
    assert found["first"][1].startswith(f"2 of {total} diagnoses") and found["second"][1].startswith(
        f"3 of {total}"
    )
    assert (
        found["reloaded"][0][:2] == found["back"][0][:2]
        and found["reloaded"][1] == 'A, "B"'
        and found["reloaded"][2] == len(found["back"][1]) > 0
    )
    done = f"{total} of {total} diagnoses, 4 of 4 cases"
    assert found["all"][1:] == [done, "All is rated. Export the CSV."]
    assert found["emptied"].startswith("0 of") and found["imported"] == [
        [*found["imported"][0][:1], found["all"][1], f"Read {total} ratings; 1 were not of this page."],
        True,
        'A, "B"',
    ]
    assert found["text"] == HOSTILE and found["title"] == "Rating of diagnoses" and found["refused"] == 1, (
        "nothing is loaded, nothing of a case is run"
    )

    (page / "ratings.csv").write_text(found["csv"])
    judge.main(
        [
            str(page / "alpha"),
            str(page / "beta"),
            "--judge",
            "string",
            "--judge",
            f"human:{page / 'ratings.csv'}",
            "--out",
            str(page / "judged"),
        ]
    )
    summary = json.loads((page / "judged" / "summary.json").read_text())
    assert summary["judges"][1]["missing"] == 0 and summary["agreement"][0]["pairs"] == total
    first = data["cases"][0]["predictions"][0]["item"]
    assert f'"{data["cases"][0]["id"]}","{first}","A, ""B""","y"' in found["csv"].split("\n")


def test_nothing_sticks_out_of_a_narrow_window(page):
    says = """const columns = getComputedStyle(document.querySelector("main")).gridTemplateColumns.split(" ");
        parent.postMessage([innerWidth, document.documentElement.scrollWidth, columns.length], "*")"""
    (page / "probe.html").write_text(
        (page / "rate.html").read_text().replace("show();\n</script>", f"show();\n{says}</script>")
    )
    hears = """const frames = [...document.querySelectorAll('iframe')], heard = [];
        onmessage = event => {
        heard[frames.findIndex(frame => frame.contentWindow === event.source)] = event.data;
        document.querySelector('pre').textContent = JSON.stringify(heard) }"""
    frames = "".join(
        f"<iframe width={width} height=800 style='border:0' src='probe.html'></iframe>"
        for width in (1280, 390)
    )
    (page / "frames.html").write_text(f"<body><pre></pre>{frames}<script>{hears}</script>")
    assert browse(page, "frames.html", "1400,900") == [[1280, 1280, 2], [390, 390, 1]]
