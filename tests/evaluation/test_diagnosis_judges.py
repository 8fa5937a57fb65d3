"""Judges that can fail: servers, a local model, votes, clinicians; and the log that asks nothing twice."""

import json
import socket

import pytest

from data_prep import egress
from evaluation import judge, rating_page
from evaluation.diagnosis import judges
from evaluation.diagnosis.server_judge import read_verdict
from evaluation.diagnosis.verdicts import Log, prediction_id
from evaluation.models import server
from tests.evaluation.test_diagnosis import CASES, GOOD, POOR, case_of, run_of
from tests.fake_openai import FakeServer
from tests.tiny_model import make_model, read_jsonl

CASE = {"id": "c0", "completion": "Gout", "synonyms": [], "access": "public", "license": "L"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(server, "PAUSES", (0.01, 0.05))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-invented")


def run(tmp_path, *judges_given, runs=("good",), more=()):
    answers = {"good": GOOD, "poor": POOR}
    folders = [str(run_of(tmp_path / name, answers[name][:8], CASES[:8])) for name in runs]
    judge.main(
        [
            *folders,
            *(a for spec in judges_given for a in ("--judge", spec)),
            "--out",
            str(tmp_path / "out"),
            *more,
        ]
    )
    return json.loads((tmp_path / "out" / "summary.json").read_text())


def says_yes_to(*names):
    return lambda prompt: "Yes." if any(f"Predicted diagnosis: {name}," in prompt for name in names) else "n"


# ---------------------------------------------------------------- servers
def test_a_server_is_asked_each_prediction_once_and_its_model_is_kept(tmp_path):
    with FakeServer("judge-2026-01-02") as fake:
        fake.reply = lambda prompt: (
            says_yes_to("Gout", "Rubeola")(prompt) + "\u2028\u0085 as a journal prints it"
        )
        spec = f"openai:judge-2026-01-02@{fake.url('chat')}"
        summary = run(tmp_path, spec)
        assert (
            len(fake.requests) == 18
            and len({body["messages"][0]["content"] for _, body in fake.requests}) == 9
        )
        body = next(body for _, body in fake.requests if "Rubeola" in body["messages"][0]["content"])
        assert body["messages"][0]["content"] == (
            "Is our predicted diagnosis correct (y/n)? Predicted diagnosis: Rubeola, True diagnosis: "
            "Measles\nAnswer [y/n].\n"
        )
        assert body["temperature"] == 0 and body["model"] == "judge-2026-01-02"
        again = run(tmp_path, spec)
        assert len(fake.requests) == 18 and again["judges"][0]["asked_now"] == 0
        other = tmp_path / "prompt.txt"
        other.write_text("{prediction} = {diagnosis}?\n")
        run(tmp_path, spec, more=["--prompt", str(other)])
        assert len(fake.requests) == 36, "another prompt is another question"
    [entry] = summary["judges"]
    assert (
        entry["served"] == ["judge-2026-01-02"]
        and entry["asked_now"] == 18
        and entry["missing"] == 0
        and len(entry["prompt_sha256"]) == 64
    )
    assert [cell["value"] for cell in entry["models"]["good"]["top"].values()] == [0.25, 0.5, 0.5, 0.5, 0.5]
    line = read_jsonl(tmp_path / "out" / "verdicts.jsonl")[0]
    assert (
        line["model"] == "judge-2026-01-02"
        and "sk-invented" not in (tmp_path / "out" / "verdicts.jsonl").read_text()
    )


@pytest.mark.guarantee(
    "Clinical cases and forgetting", "A verdict that could not be had is missing, never a no."
)
def test_failed_judgements_are_missing_and_asked_again(tmp_path, capsys):
    with FakeServer() as fake:
        fake.reply = says_yes_to("Gout")
        fake.faults = {2: 429, 5: 500, 7: "drop", 9: "text"}
        fake.refuse = lambda prompt: 400 if "Lymphoma" in prompt else None
        spec = f"openai:fake@{fake.url('chat')}"
        entry = run(tmp_path, spec)["judges"][0]
        assert entry["failed"] == entry["missing"] == 2 and entry["first_failure"].startswith("HTTP 400: ")
        top = entry["models"]["good"]["top"]
        assert (top["1"]["missing"], top["1"]["n"], top["1"]["right"], top["1"]["value"]) == (2, 6, 2, 1 / 3)
        assert "2 of these got no answer (HTTP 400: " in capsys.readouterr().out
        fake.refuse, before = lambda prompt: None, len(fake.requests)
        assert run(tmp_path, spec)["judges"][0]["missing"] == 0 and len(fake.requests) == before + 2


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    with FakeServer() as fake:
        fake.reply, fake.dead_after = says_yes_to("Gout"), 6
        spec = f"openai:fake@{fake.url('chat')}"
        entry = run(tmp_path, spec)["judges"][0]
        assert 0 < entry["asked_now"] <= 6 and entry["missing"] == 18 - entry["asked_now"]
        log = tmp_path / "out" / "verdicts.jsonl"
        log.write_text(log.read_text()[:-20])  # cut in its last line
        fake.dead_after, before = None, len(fake.requests)
        assert run(tmp_path, spec)["judges"][0]["missing"] == 0
        assert len(fake.requests) - before == 18 - entry["asked_now"] + 1
        assert len(Log(log).known) == 18


def test_a_server_that_dies_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "ENOUGH", 4)
    with FakeServer() as fake:
        fake.dead_after = 3
        with pytest.raises(
            SystemExit,
            match="RemoteDisconnected.*; 3 verdicts were kept. Next: see to the server, then the same "
            "command",
        ):
            run(tmp_path, f"openai:fake@{fake.url('chat')}")
    assert (
        len(Log(tmp_path / "out" / "verdicts.jsonl").known) == 3
        and not (tmp_path / "out" / "summary.json").exists()
    )


def test_a_server_that_lets_nobody_in_stops_the_run_and_keeps_what_it_said(tmp_path):
    with FakeServer() as fake:
        fake.refuse = lambda prompt: 401
        with pytest.raises(
            SystemExit, match="HTTP 401: .*; 0 verdicts were kept. Next: export OPENAI_API_KEY"
        ):
            run(tmp_path, f"openai:fake@{fake.url('chat')}")
    with pytest.raises(SystemExit, match="no server answers there"):
        run(tmp_path, f"openai:fake@{fake.url('chat')}")


@pytest.mark.parametrize(
    ("access", "model"), [("gated", "public"), ("credentialed", "public"), ("public", "credentialed")]
)
@pytest.mark.guarantee(
    "Clinical cases and forgetting", "Cases that are not public are sent to no foreign judge."
)
def test_what_is_not_public_is_sent_to_no_foreign_host(tmp_path, access, model):
    folder = run_of(tmp_path / "run", ["1. Gout"], [case_of(0, access=access)], model)
    with pytest.raises(
        SystemExit,
        match="case c0 is not public, .* not sent to api.openai.com. Next: a judge on this machine, or "
        "--allow_list FILE",
    ):
        judge.main([str(folder), "--judge", "openai:gpt-4o-2024-08-06", "--out", str(tmp_path / "out")])
    with FakeServer() as fake:
        judge.main(
            [str(folder), "--judge", f"openai:fake@{fake.url('chat')}", "--out", str(tmp_path / "out")]
        )
        assert len(fake.requests) == 1


@pytest.mark.guarantee(
    "Clinical cases and forgetting", "Cases that are not public are sent to no foreign judge."
)
def test_a_copy_of_what_a_credentialed_model_answered_is_sent_to_no_foreign_host(tmp_path):
    folder = run_of(tmp_path / "run", ["1. Gout"], [case_of(0)], "credentialed")
    [row] = read_jsonl(folder / "diagnosis.jsonl")
    arguments = ["--judge", "openai:gpt-4o-2024-08-06", "--out", str(tmp_path / "out")]
    for name, said in (
        ("alone", {}),
        ("told", {"model_access": "credentialed"}),
    ):  # of an older run, and of one whose rows say it
        (tmp_path / name).mkdir()
        (tmp_path / name / "diagnosis.jsonl").write_text(json.dumps(row | said) + "\n")
        with pytest.raises(
            SystemExit, match="case c0 is not public, or was answered by a model trained on credentialed text"
        ):
            judge.main([str(tmp_path / name), *arguments])
    (tmp_path / "told" / "run.json").write_text(json.dumps({"access": "public", "model_access": "public"}))
    with pytest.raises(SystemExit, match="case c0 is not public"):
        judge.main([str(tmp_path / "told"), *arguments])
    rating_page.main([str(tmp_path / "told"), "--out", str(tmp_path / "rate.html")])
    assert not [path for path in tmp_path.glob("rate.html*") if path.stat().st_mode & 0o077]


@pytest.mark.guarantee(
    "Credentialed data",
    "A model that was trained on credentialed data closes the process that asks it: generation, "
    "forgetting, judges.",
)
def test_a_credentialed_judge_closes_the_process_and_its_verdicts_say_so(tmp_path):
    make_model(tmp_path / "model", template=False)
    (tmp_path / "model" / "run.json").write_text(json.dumps({"access": "credentialed"}))
    with FakeServer(root=str(tmp_path / "model")) as fake:
        for number, spec in enumerate(
            (
                f"hf:{tmp_path / 'model'}",
                f"openai:fake@{fake.url('chat')}",
                f"vote:string+openai:fake@{fake.url('chat')}",
            )
        ):
            for _ in range(2):  # the second time the log answers
                egress._blocked = None
                folder = run_of(tmp_path / "run", ["1. Gout"], [case_of(0)])
                judge.main([str(folder), "--judge", spec, "--out", str(tmp_path / f"out{number}")])
                assert (
                    json.loads((tmp_path / f"out{number}" / "summary.json").read_text())["access"]
                    == "credentialed"
                )
                assert not (tmp_path / f"out{number}").stat().st_mode & 0o077
            lines = read_jsonl(tmp_path / f"out{number}" / "verdicts.jsonl")
            assert [line["model_access"] for line in lines if not line["judge"].startswith("string")] == [
                "credentialed"
            ]
    egress._blocked = None
    judges.make_judge(f"hf:{tmp_path / 'model'}")
    assert egress.agreements() == ["what model was trained under"]


@pytest.mark.parametrize(("text", "verdict"), [
    ("y", True), ("Yes.", True), ("**No**", False), ("n\nbecause", False), ("[y]", True), ("The answer is yes", True), ("<think>no, or yes</think>y", True),
    ("I would say it is not correct: no", False), ("yes and no", None), ("maybe", None), ("", None), ("No idea", None), ("Answer [y/n].", None), ("It could be yes or no", None),
    ("True", True), ("False", False), ("**False**.", False), ('{"correct": true}', True), ("The answer is: False", False),
    ("True or false?", None), ("It is true that they differ", None), ("False positive", None), ("correct: true\ncorrect: false", None),
])  # fmt: skip
def test_what_a_judge_wrote_is_read_as_yes_no_or_nothing(text, verdict):
    assert read_verdict(text) is verdict


def test_an_entry_of_the_allow_list_opens_its_host_alone(tmp_path):
    allowed = tmp_path / "allowed.yaml"
    allowed.write_text(
        "- {endpoint: 'https://llm.hospital.example/v1', agreement: Contract 7, person: A. Example, date: "
        "2026-01-02}\n"
    )
    one = judges.make_judge("openai:m@https://llm.hospital.example/v1/chat/completions", allow_list=allowed)
    one.require_allowed([{**CASE, "access": "credentialed"}])
    assert one.opened["agreement"] == "Contract 7"
    with pytest.raises(Exception, match="not sent to api.openai.com"):
        judges.make_judge("openai:m", allow_list=allowed).require_allowed([{**CASE, "access": "gated"}])


def test_a_judge_on_this_machine_is_asked_without_a_proxy(tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # no server there
    monkeypatch.setenv("no_proxy", "")
    with FakeServer("judge-2026-01-02") as fake:
        fake.reply = lambda prompt: "n"
        summary = run(tmp_path, f"openai:judge-2026-01-02@{fake.url('chat')}")
    assert summary["judges"][0]["missing"] == 0 and len(fake.requests) == 18


@pytest.mark.parametrize("spec", ["{}", "vote:string+{}"])
def test_an_entry_that_was_needed_is_recorded_also_where_the_log_answers(tmp_path, monkeypatch, spec):
    look_up = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *a, **k: look_up("127.0.0.1" if host == "llm.hospital.example" else host, *a, **k),
    )
    monkeypatch.setitem(CASES[0], "access", "gated")
    allowed = tmp_path / "allowed.yaml"
    allowed.write_text(
        "- {endpoint: 'http://llm.hospital.example/v1', agreement: Contract 7, person: A. Example, date: "
        "2026-01-02}\n"
    )
    with FakeServer("judge-2026-01-02") as fake:
        fake.reply = lambda prompt: "n"
        judge_of = spec.format(
            f"openai:judge-2026-01-02@{fake.url('chat').replace('127.0.0.1', 'llm.hospital.example')}"
        )
        for _ in range(2):
            summary = run(tmp_path, judge_of, more=["--allow_list", str(allowed)])
            assert [entry["agreement"] for entry in summary["judges"][0]["allowed"]] == ["Contract 7"]
    assert len(fake.requests) == 18


def test_a_model_without_a_date_must_say_its_version(tmp_path, monkeypatch):
    with FakeServer() as fake:
        fake.model = None
        monkeypatch.setattr(server, "look", lambda entry: {})
        dated = judges.make_judge(f"openai:gpt-4o-2024-08-06@{fake.url('chat')}")
        fake.reply = lambda prompt: "y"
        assert [answer["verdict"] for _, answer in dated.ask([("gout", CASE)])] == [True]
        with pytest.raises(Exception, match="does not say which version of gpt-4o answered"):
            list(judges.make_judge(f"openai:gpt-4o@{fake.url('chat')}").ask([("gout", CASE)]))


# ---------------------------------------------------------------- a local model
def test_a_local_model_compares_p_yes_with_p_no(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    make_model(tmp_path / "model", template=False)
    one = judges.make_judge(f"hf:{tmp_path / 'model'}")
    pairs = [(name, CASE) for name in ("Gout", "Pseudogout", "Septic arthritis")]
    found = dict(one.ask(pairs))
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "model"),
        AutoTokenizer.from_pretrained(tmp_path / "model"),
    )
    for place, (name, _) in enumerate(pairs):
        context = f"Is our predicted diagnosis correct (y/n)? Predicted diagnosis: {name}, True diagnosis: Gout\nAnswer [y/n]."
        chance = {}
        for word in ("y", "Y", "yes", "Yes", "n", "N", "no", "No"):
            before, ids = (
                tokenizer(context).input_ids,
                tokenizer(f"{context} {word}", return_tensors="pt").input_ids,
            )
            with torch.no_grad():
                logs = model(ids).logits[0, :-1].log_softmax(-1)
            chance[word] = sum(float(logs[i - 1, ids[0, i]]) for i in range(len(before), ids.shape[1]))
        yes, no = (
            sum(2.718281828459045 ** chance[word] for word in words)
            for words in (("y", "Y", "yes", "Yes"), ("n", "N", "no", "No"))
        )
        assert found[place]["raw"] == {
            "p_yes": pytest.approx(yes, rel=1e-3),
            "p_no": pytest.approx(no, rel=1e-3),
        }
        assert found[place]["verdict"] is (yes > no)
    assert dict(judges.make_judge(f"hf:{tmp_path / 'model'}").ask(pairs)) == found, (
        "the same model says the same"
    )
    with pytest.raises(Exception, match="nowhere: no model here"):
        judges.make_judge("hf:nowhere")


# ---------------------------------------------------------------- votes and clinicians
def test_a_vote_is_what_more_than_half_say(tmp_path):
    majority = judges.Vote.majority
    assert [
        majority(v)
        for v in (
            [True, True, None],
            [False, False, True],
            [True, False],
            [True, None],
            [None, None, None],
            [],
        )
    ] == [True, False, None, None, None, None]
    with FakeServer("a") as first, FakeServer("b") as second:
        first.reply, second.reply = says_yes_to("Gout", "Rubella"), says_yes_to("Gout")
        spec = f"vote:string+openai:a@{first.url('chat')}+openai:b@{second.url('chat')}"
        [entry] = run(tmp_path, spec)["judges"]
        assert entry["kind"] == "vote" and len(entry["members"]) == 3
        assert [cell["value"] for cell in entry["models"]["good"]["top"].values()] == [
            0.25
        ] * 5  # only gout has two votes
        tied = run(tmp_path, f"vote:string+openai:a@{first.url('chat')}")["judges"][0]
    assert tied["missing"] == 6, (
        "two judges that differ decide nothing: rubella, rubeola and DLBCL, in two cases each"
    )


def rate(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_clinicians_are_a_judge_and_measure_the_others(tmp_path):
    right = {
        "c0": "Gout",
        "c1": "Rubeola",
        "c2": "DLBCL",
        "c4": "Gout",
        "c5": "Rubeola",
        "c6": "Lymphoma",
    }  # c6: they take the broader name
    names = {f"c{i}": [name[3:] for name in GOOD[i].split("\n")] for i in range(8)}
    first = [
        f"{case},{prediction_id(case, name.upper())},AB,{'y' if right.get(case) == name else 'n'}"
        for case in names
        for name in names[case]
        if case != "c7"
    ]
    second = [f"c{i},Gout,CD,{answer}" for i, answer in ((0, "yes"), (4, "no"))]
    rate(tmp_path / "ratings" / "ab.csv", ["case_id,item,rater,match", *first])
    rate(tmp_path / "ratings" / "cd.csv", ["case_id,prediction,rater,match", *second])
    summary = run(tmp_path, "string", f"human:{tmp_path / 'ratings'}")
    human = summary["judges"][1]
    top = human["models"]["good"]["top"]
    assert (top["1"]["missing"], top["1"]["right"]) == (2, 2), (
        "a tie of two raters (c4) and a case without ratings (c7) are missing"
    )
    [agreement] = summary["agreement"]
    assert agreement["pairs"] == 15 and agreement["confusion"] == [4, 1, 1, 9]
    assert agreement["sensitivity"]["value"] == pytest.approx(4 / 5) and agreement["specificity"][
        "value"
    ] == pytest.approx(9 / 10)
    assert agreement["kappa"]["low"] <= agreement["kappa"]["value"] <= agreement["kappa"]["high"]
    assert set(agreement["top"]) == {"1", "2", "3", "4", "5"} and "good" in agreement["top"]["1"]["corrected"]
    assert [summary["raters"][0][key] for key in ("first", "second", "cases", "pairs")] == ["AB", "CD", 2, 2]
    assert (tmp_path / "out" / "figure4.svg").is_file() and "Agreement with clinicians" in (
        tmp_path / "out" / "summary.md"
    ).read_text()


def test_a_rank_is_a_prediction_of_a_run(tmp_path):
    file = rate(tmp_path / "r.csv", ["case_id,rank,rater,match", "c0,1,AB,y", "c1,2,AB,n"])
    entry = run(tmp_path, f"human:{file}")["judges"][0]
    assert entry["pairs"] - entry["missing"] == 2 and entry["models"]["good"]["top"]["1"]["right"] == 1
    with pytest.raises(
        SystemExit, match="r.csv: record 1: a rank of which of good, poor. Next: a column model"
    ):
        run(tmp_path, f"human:{file}", runs=("good", "poor"))
    rate(file, ["case_id,rank,rater,match,model", "c0,1,AB,n,poor", "c0,2,AB,y,poor"])
    entry = run(tmp_path, f"human:{file}", runs=("good", "poor"))["judges"][0]
    assert (
        entry["models"]["poor"]["top"]["2"]["right"] == 1
        and entry["models"]["good"]["top"]["1"]["right"] == 1
    ), "gout is gout, whoever said it"
    for lines, message in (
        (["case_id,rank,rater,match", "c0,7,AB,y"], "good has no rank 7 for case c0 .2 names were read"),
        (["case_id,rank,rater,match", "c0,1,AB,perhaps"], "match 'perhaps' is not one of y, yes"),
        (
            ["case_id,rank,rater,match", "c0,1,AB,y", "c0,1,AB,n"],
            "record 2: AB rated this prediction before, and otherwise",
        ),
        (["case_id,rater,match", "c0,AB,y"], "has no item, prediction or rank"),
        (["case_id,rank,rater,match", "c0,1,AB,"], "holds no rating. Next: python -m evaluation.rating_page"),
    ):
        with pytest.raises(SystemExit, match=message):
            run(tmp_path, f"human:{rate(file, lines)}")


def test_a_judge_is_asked_again_and_with_the_names_swapped(tmp_path):
    """It takes the name that stands first for the right one if it begins with G: not the same when swapped."""
    with FakeServer("judge-2026-01-02") as fake:
        fake.reply = lambda prompt: "y" if "Predicted diagnosis: Gout" in prompt else "n"
        spec, more = f"openai:judge-2026-01-02@{fake.url('chat')}", ("--again", "100")
        (judged,) = run(tmp_path, spec, more=more)["judges"]
        asked = len(fake.requests)
        assert run(tmp_path, spec, more=more)["judges"][0]["again"] == judged["again"], "of the log"
        assert asked == len(fake.requests) == 3 * judged["pairs"]
        fake.refuse = lambda prompt: 400 if "True diagnosis: Pseudogout" in prompt else None
        (tmp_path / "out" / "verdicts.jsonl").unlink()
        (missing,) = run(tmp_path, spec, more=more)["judges"]
    again, swapped = judged["again"]["again"], judged["again"]["swapped"]
    assert (again["pairs"], again["changed"], again["missing"]) == (18, 0, 0) and again["high"] > 0
    assert swapped["changed"] == 2 and swapped["value"] == pytest.approx(2 / 18), "Pseudogout, of two cases"
    assert missing["again"]["swapped"]["missing"] == 2 and missing["again"]["swapped"]["changed"] == 0
    table = (tmp_path / "out" / "summary.md").read_text()
    assert "the two names swapped" in table and "| detectable " in table
