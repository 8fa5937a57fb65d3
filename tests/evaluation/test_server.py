"""Generation against an OpenAI-compatible server that fails in every way that servers do."""

import json
import socket

import pytest
import yaml

from data_prep import egress
from data_prep.schema import BadInput
from evaluation import generate
from evaluation.models import server
from evaluation.models.registry import read_entry
from tests.fake_openai import FakeServer
from tests.tiny_model import make_tokenizer, read_jsonl, rows_of, write_rows

N = 30


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(server, "PAUSES", (0.01, 0.4))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-invented")


@pytest.fixture
def world(tmp_path):
    options = {"choices": ["A", "B"], "question": "Which drug?", "options": ["zorimel", "tavoxan forte"]}
    pairs = [
        (f"Question {i:02}{'!' * i}", "AB"[i % 2]) for i in range(N)
    ]  # of different lengths: the longest is asked first
    write_rows(tmp_path / "rows", "medqa", rows_of("medqa", "choice", pairs, **options))
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return tmp_path


def run(
    world,
    fake,
    *more,
    endpoint="chat",
    tasks="medqa",
    out="eval/fake",
    preset="chat",
    changes=("context=512",),
):
    entry = [
        "--model",
        "server",
        f"backend={endpoint}",
        f"base_url={fake.url(endpoint)}",
        f"served={fake.model}",
        "access=public",
        *changes,
    ]
    paths = ["--rows", world / "rows", "--tasks", tasks, "--preset", preset, "--out", world / out]
    generate.main([str(a) for a in [*entry, *paths, "--max_new_tokens", 8, *more]])
    return json.loads((world / out / "run.json").read_text()), read_jsonl(
        world / out / f"{tasks.split(',')[0]}.jsonl"
    )


def letter(prompt):
    return f"The answer is {'AB'[int(str(prompt).strip('!').split()[1][:2]) % 2]}"


def test_a_chat_server_is_asked_each_prompt_once(world):
    with FakeServer() as fake:
        fake.reply = letter
        facts, rows = run(world, fake)
    assert [row["output"] for row in rows] == [letter(row["prompt"]) for row in rows]
    assert len(fake.requests) == N and fake.authorization == "Bearer sk-invented"
    path, body = next(
        (path, body) for path, body in fake.requests if "Question 03!!!" in body["messages"][0]["content"]
    )
    assert path == "/v1/chat/completions"
    assert body["messages"] == [{"role": "user", "content": "Question 03!!!\n"}]
    assert (
        body["max_tokens"] == 8
        and body["temperature"] == 0
        and body["model"] == "fake"
        and "stop" not in body
    )
    assert "sk-invented" not in json.dumps(facts)
    assert (
        facts["server"] == {"base_url": fake.url("chat"), "served": "fake", "listed": {"id": "fake"}}
        and facts["name"] == "fake"
    )
    assert facts["tasks"]["medqa"]["template"] == {"name": "the server's", "sha256": None}
    assert facts["tasks"]["medqa"]["first_prompt"] == '[{"role": "user", "content": "Question 00\\n"}]'


def test_a_failing_request_is_tried_again(world):
    with FakeServer() as fake:
        fake.reply = letter
        fake.faults = {2: 429, 5: 500, 7: "drop", 9: "text"}
        _, rows = run(world, fake)
    assert [row["output"] for row in rows] == [letter(row["prompt"]) for row in rows]
    assert len(fake.requests) == N + 4


@pytest.mark.parametrize("status", [400, 500])
def test_a_request_that_never_succeeds_is_set_aside_and_the_others_are_kept(world, status):
    with FakeServer() as fake:
        fake.reply = letter
        fake.refuse = lambda prompt: status if "Question 20" in prompt else None
        with pytest.raises(
            SystemExit,
            match=f"1 requests failed, the first for row medqa:test:20 .HTTP {status}: .*injected.*; "
            f"{N - 1} answers are kept",
        ):
            run(world, fake)
        assert not (world / "eval" / "fake").exists()
        asked = len(fake.requests)
        facts, rows = run(world, fake, "--allow_failed")
        assert len(fake.requests) - asked <= 3  # only the failing one
    assert [row["output"] for row in rows] == [
        letter(row["prompt"]) if i != 20 else "" for i, row in enumerate(rows)
    ]
    assert (
        list(facts["tasks"]["medqa"]["failed"]) == ["medqa:test:20"]
        and facts["tasks"]["medqa"]["n_failed"] == 1
    )


def test_a_server_that_dies_loses_nothing_and_the_run_goes_on(world):
    with FakeServer() as fake:
        fake.reply, fake.dead_after = letter, 12
        with pytest.raises(
            SystemExit, match="(stopped answering|18 requests failed).*; 12 answers are kept. Next: "
        ):
            run(world, fake)
        assert not (world / "eval" / "fake").exists()
        fake.dead_after, before = None, len(fake.requests)
        _, rows = run(world, fake)
        assert len(fake.requests) - before == N - 12
    assert [row["output"] for row in rows] == [letter(row["prompt"]) for row in rows]


def test_a_server_that_answers_nothing_is_given_up_early(world):
    with FakeServer() as fake:
        fake.refuse = lambda prompt: 500
        with pytest.raises(SystemExit, match="stopped answering .HTTP 500: .*; 0 answers are kept"):
            run(world, fake)
        fake.dead_after = 0
        with pytest.raises(
            SystemExit,
            match="stopped answering .ServerDisconnectedError: .*; 0 answers are kept. Next: see to the "
            "server, then",
        ):
            run(world, fake)
    with pytest.raises(SystemExit, match="no server answers there .*Next: start it"):
        run(world, fake)


def test_an_empty_output_is_an_output(world):
    with FakeServer() as fake:
        fake.reply = lambda prompt: None if "00" in prompt else ""
        facts, rows = run(world, fake)
    assert {row["output"] for row in rows} == {""} and facts["tasks"]["medqa"]["n_failed"] == 0


def test_the_completions_endpoint_gets_token_ids_with_one_bos(world):
    tokenizer = make_tokenizer()
    with FakeServer() as fake:
        fake.reply = lambda prompt: "B"
        _, rows = run(
            world,
            fake,
            endpoint="completions",
            preset="paper",
            changes=("context=512", f"path={world / 'tokenizer'}"),
        )
        sent = {tuple(body["prompt"][0]) for _, body in fake.requests}
    assert sent == {tuple(tokenizer(row["prompt"])["input_ids"]) for row in rows} and {
        row["output"] for row in rows
    } == {"B"}
    assert all(ids[0] == tokenizer.bos_token_id and tokenizer.bos_token_id not in ids[1:] for ids in sent)


def takes_text_only(prompt):
    return None if isinstance(prompt, str) else 400


@pytest.mark.parametrize("adds_bos", [True, False])
def test_where_ids_are_refused_the_text_is_sent_that_gives_the_same_ids(world, adds_bos):
    """As `transformers serve` does, whose tokenizer adds the BOS that it always adds."""
    tokenizer = make_tokenizer(adds_bos=adds_bos)
    tokenizer.chat_template = "{{ bos_token }}{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(world / "tokenizer")
    changes = ("context=512", f"path={world / 'tokenizer'}")
    with FakeServer() as fake:
        fake.refuse, fake.reply = takes_text_only, lambda prompt: "B"
        facts, rows = run(world, fake, endpoint="completions", changes=changes)
        sent = {body["prompt"] for _, body in fake.requests if isinstance(body["prompt"], str)}
    ids = {tuple(tokenizer("<s>" + row["prompt"], add_special_tokens=False).input_ids) for row in rows}
    assert {tuple(tokenizer(text).input_ids) for text in sent} == ids and len(sent) == N
    assert {row["output"] for row in rows} == {"B"} and facts["tasks"]["medqa"]["n_failed"] == 0
    assert len(fake.requests) < 2 * N  # ids are offered until the first refusal is read


def test_a_server_without_likelihoods_is_not_asked_for_them_again(world):
    changes = ("context=512", f"path={world / 'tokenizer'}")
    with FakeServer() as fake:
        fake.completion = lambda prompt, body: {"index": 0, "text": "x"}
        said = "its answers hold no logprobs .*Next: --tasks without those that end in _ll"
        with pytest.raises(SystemExit, match=said):
            run(world, fake, endpoint="completions", tasks="medqa_ll", preset="paper", changes=changes)
        assert len(fake.requests) <= 2 * N


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "export OPENAI_API_KEY"),
        (404, "correct the name of the model"),
        (400, "correct what it complains of"),
    ],
)
def test_the_advice_fits_the_status(world, status, advice):
    with FakeServer() as fake:
        fake.refuse = lambda prompt: status
        with pytest.raises(SystemExit, match=f"HTTP {status}.*Next: {advice}") as stop:
            run(world, fake)
        assert "same command again" not in str(stop.value) or status == 401


@pytest.mark.parametrize("answer", [("no list", 500), ("<html>", 200), (json.dumps({"data": [3]}), 200)])
def test_a_list_of_models_that_fails_is_said_and_the_model_is_asked(world, capsys, answer):
    with FakeServer() as fake:
        fake.reply, fake.list = letter, answer
        _, rows = run(world, fake)
    assert ("was not checked" in capsys.readouterr().out) == ("data" not in answer[0])
    assert [row["output"] for row in rows] == [letter(row["prompt"]) for row in rows]


def test_a_folder_as_the_served_name_says_the_class(world):
    """As evaluation.serve has it: `transformers serve` lists no root."""
    (world / "notes").mkdir()
    (world / "notes" / "config.json").write_text(json.dumps({"access": "credentialed"}))
    with FakeServer(model=str(world / "notes")) as fake:
        entry = read_entry("server", ["backend=chat", f"base_url={fake.url('chat')}", f"served={fake.model}",
                                      "access=public"])  # fmt: skip
        server.look(entry)
    assert entry.access == "credentialed"


def test_without_a_tokenizer_the_text_is_sent_and_what_may_not_fit_is_counted(world, capsys):
    with FakeServer(max_model_len=40) as fake:  # bytes of the prompts: 12 to 41, and 8 new tokens
        fake.reply = lambda prompt: "B"
        facts, rows = run(world, fake, endpoint="completions", preset="paper", changes=())
        assert {body["prompt"] for _, body in fake.requests} == {row["prompt"] for row in rows}
    task = facts["tasks"]["medqa"]
    assert task["context"] == 40 and task["longest_prompt_tokens"] is None
    assert task["n_uncounted"] == sum(len(row["prompt"]) + 8 > 40 for row in rows) > 0
    assert f"{task['n_uncounted']} may be too long for 40: the server decides" in capsys.readouterr().out


def test_overlong_prompts_are_counted_with_the_tokenizer_of_a_server(world):
    changes = ("context=24", f"path={world / 'tokenizer'}")
    with FakeServer() as fake:
        for endpoint in ("chat", "completions"):
            with pytest.raises(SystemExit, match="of 30 prompts .* do not fit into 24 with 8 new ones"):
                run(world, fake, endpoint=endpoint, preset="paper", changes=changes)
        assert fake.requests == []


def test_likelihoods_of_a_server_are_those_of_the_answers(world):
    tokenizer = make_tokenizer()
    with FakeServer() as fake:
        _, rows = run(
            world,
            fake,
            endpoint="completions",
            tasks="medqa_ll",
            preset="paper",
            changes=("context=512", f"path={world / 'tokenizer'}"),
        )
    context = len(tokenizer("Question: Which drug? Answer:")["input_ids"])
    for row in rows:
        for (nats, size), option in zip(row["output"], row["options"], strict=True):
            ids = tokenizer(f"Question: Which drug? Answer: {option}")["input_ids"]
            assert nats == pytest.approx(-0.01 * sum(ids[context:])) and size == len(option)


@pytest.mark.guarantee("Evaluation", "Another model, server or type of weights never gets cached answers.")
def test_two_servers_and_two_models_never_share_answers(world):
    for number in range(2):
        with FakeServer(model=f"m{number}") as fake:
            fake.reply = lambda prompt, number=number: f"reply {number}"
            _, rows = run(world, fake, out=f"eval/m{number}")
        assert {row["output"] for row in rows} == {f"reply {number}"} and len(fake.requests) == N
    with FakeServer(root="/models/a") as fake:
        fake.reply = lambda prompt: "a"
        run(world, fake)
        fake.listed, fake.reply = (
            {"root": "/models/b"},
            lambda prompt: "b",
        )  # another model under the old name and address
        _, rows = run(world, fake)
    assert {row["output"] for row in rows} == {"b"}


def test_what_must_not_or_cannot_be_sent_is_refused_before_anything_is(world):
    rows = rows_of("mednli", "choice", [("So?", "neutral")], choices=["neutral"])
    write_rows(world / "rows", "mednli", [row | {"access": "credentialed"} for row in rows])
    paths = ["--rows", str(world / "rows"), "--preset", "chat", "--out", str(world / "eval" / "x")]
    with pytest.raises(
        SystemExit,
        match="credentialed text is not sent to api.openai.com: its terms .invented. .* Next: .* "
        "allow_list FILE with an entry for api.openai.com",
    ):
        generate.main(["--model", "gpt-4-0314", "--tasks", "mednli", *paths])
    with FakeServer(model="other") as fake:
        fake.model = "renamed"
        with pytest.raises(SystemExit, match="serves renamed, not other. Next: served=NAME"):
            generate.main(
                [
                    "--model",
                    "server",
                    "backend=chat",
                    f"base_url={fake.url('chat')}",
                    "served=other",
                    "access=public",
                    "--tasks",
                    "medqa",
                    *paths,
                ]
            )
        with pytest.raises(
            SystemExit, match="medqa_ll: likelihoods need the completions endpoint and a tokenizer"
        ):
            run(world, fake, tasks="medqa_ll")
        with pytest.raises(SystemExit, match="length of its context is not known. Next: context=TOKENS"):
            run(world, fake, changes=())
        with pytest.raises(
            SystemExit, match="--backend_args: unknown 'colour' for a server .known: num_concurrent, "
        ):
            run(world, fake, "--backend_args", "colour=red")
        with pytest.raises(SystemExit, match="there is no chat template. Next: path=TOKENIZER_DIR"):
            run(world, fake, endpoint="completions")
    assert fake.requests == []
    with pytest.raises(SystemExit, match="a completions server needs base_url and served"):
        generate.main(["--model", "server", "--tasks", "medqa", *paths])


# ---------------------------------------------------------------- the class of a model that cannot be looked
# at
def test_a_server_says_what_its_model_was_trained_on_or_is_not_asked(world, tmp_path):
    mine = tmp_path / "mine.yaml"
    with FakeServer() as fake:
        facts = {"backend": "chat", "base_url": fake.url("chat"), "models": {"mine": {"served": "fake"}}}
        mine.write_text(yaml.safe_dump(facts))
        at_fake = [f"base_url={fake.url('chat')}", "served=fake"]
        said = "what was the model at http://127.0.0.1:.* trained on. Next: access=public, access=gated or access=credentialed, or path=DIR"
        for model, changes in (
            ("server", ["backend=chat", *at_fake]),
            (str(mine), []),
            ("gpt-4-0314", at_fake),
        ):
            with pytest.raises(BadInput, match=said):
                read_entry(model, changes)
        mine.write_text(yaml.safe_dump(facts | {"access": "gated"}))
        assert read_entry(str(mine)).access == "gated" == read_entry(str(mine), ["access=public"]).access
        assert read_entry(str(mine), ["access=credentialed"]).access == "credentialed"
        for path in ("tokenizer", "weights"):
            changes = ["backend=chat", *at_fake, f"path={world / path}"]
            with pytest.raises(BadInput, match=said if path == "tokenizer" else "weights: no such folder"):
                read_entry("server", changes)
        assert (
            read_entry("server", [*changes[:-1], f"path={world / 'tokenizer'}", "access=gated"]).access
            == "gated"
        )
        (world / "weights").mkdir()
        for config, access in (({}, "public"), ({"access": "credentialed"}, "credentialed")):
            (world / "weights" / "config.json").write_text(json.dumps(config))
            assert read_entry("server", changes).access == access
        assert fake.requests == []


@pytest.mark.guarantee(
    "Credentialed data",
    "The outputs of a served model have the class of the folder that its server lists as the model's root.",
)
@pytest.mark.parametrize("named", ["root", "parent"])
def test_the_folder_that_a_server_names_says_the_class(world, named):
    """As vLLM lists a model by its path, and an adapter with the model that it is of."""
    notes = world / "notes"
    notes.mkdir()
    (notes / "config.json").write_text(json.dumps({"access": "credentialed"}))
    with FakeServer(root=str(notes)) as fake:
        if named == "parent":
            fake.listed = {"root": "adapter-of-notes", "parent": "base"}
            fake.others = [{"id": "base", "root": str(notes)}]
        fake.reply = lambda prompt: "B" if egress.agreements() else "sent before the process was closed"
        facts, rows = run(world, fake)
    assert egress.agreements() == ["what fake was trained under"] and {row["output"] for row in rows} == {"B"}
    assert facts["model_access"] == facts["access"] == "credentialed" == rows[0]["model_access"]
    assert not [path for path in (world / "eval" / "fake").rglob("*") if path.stat().st_mode & 0o077]


@pytest.mark.guarantee(
    "Credentialed data",
    "An entry of another machine that is asked at this one is a relay: it needs the allow list as if asked "
    "there.",
)
def test_a_relay_on_this_machine_is_as_far_as_what_it_precedes(world):
    rows = rows_of("mednli", "choice", [("So?", "neutral")], choices=["neutral"])
    write_rows(world / "rows", "mednli", [row | {"access": "credentialed"} for row in rows])
    egress._blocked = None  # writing them here has closed this process
    allowed = {
        "endpoint": "https://api.openai.com/v1",
        "agreement": "contract 7",
        "person": "A. Example",
        "date": "2026-01-02",
    }
    (world / "allow.yaml").write_text(yaml.safe_dump([allowed]).replace("'2026-01-02'", "2026-01-02"))
    with FakeServer("gpt-4-0314") as fake:
        fake.reply = lambda prompt: "neutral"
        arguments = [
            "--model",
            "gpt-4-0314",
            f"base_url={fake.url('chat')}",
            "--rows",
            str(world / "rows"),
            "--tasks",
            "mednli",
            "--preset",
            "chat",
            "--max_new_tokens",
            "8",
            "--out",
            str(world / "eval" / "relay"),
        ]
        with pytest.raises(
            SystemExit,
            match="gpt-4-0314: is at api.openai.com, and http://127.0.0.1:.* is taken for a relay to it; "
            ".*--model server",
        ):
            generate.main(arguments)
        assert fake.requests == []
        generate.main([*arguments, "--allow_list", str(world / "allow.yaml")])
        assert len(fake.requests) == 1
    assert json.loads((world / "eval" / "relay" / "run.json").read_text())["allowed"] == [allowed]
    with pytest.raises(BadInput, match="not sent to api.openai.com"):
        socket.getaddrinfo(
            "api.openai.com", 443
        )  # this process has reached the relay, and reaches no further
