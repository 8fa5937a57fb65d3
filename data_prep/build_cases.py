"""Turn published or own clinical cases into rows that ask for a ranked differential of five.

    python -m data_prep.build_cases --source agentclinic=FILE --source nejm_cpc=DIR --source cases=FILE \\
        --out data/cases

Reads   the case files of each --source, see READERS, and data_prep/prompts/diagnosis/differential.txt
Writes  OUT/diagnosis/test.jsonl (rows of scoring "diagnosis", schema.py) and OUT/diagnosis/manifest.json,
        whole or not at all

A case is {id, text, final_diagnosis, synonyms, access, license, source}; `synonyms` are the other names that
count as the diagnosis. Sources:
    cases             your own: JSON lines of exactly that, `synonyms` optional
    agentclinic       agentclinic_medqa.jsonl of github.com/SamuelSchmidgall/AgentClinic: one OSCE_Examination
                      a line, rendered as text; the objective for the doctor and the diagnosis are left out.
                      MIT. Made from MedQA: not independent of its test
    craftmd           usmle_and_derm_dataset.csv of CRAFT-MD: case_vignette, answer, dataset. MIT. Its larger
                      part is MedQA as well
    medcasereasoning  JSON lines of case_prompt and final_diagnosis. CC BY 4.0
    nejm_cpc          your own copy of the paper's 70 clinicopathologic conferences of the New England
                      Journal of Medicine, 2021 and 2022, which are copyrighted: index.csv with id,
                      final_diagnosis, synonyms (separated by ";"), and <id>.txt of each. An id is the number
                      of the case in the journal, e.g. 3-2021. Each text must end where the discussant begins:
                      cutting it is your work, and so is choosing the 70 (the supplement of Kanjee et al.,
                      JAMA 2023, lists them). Access class: gated

A case whose text holds its own diagnosis or a synonym is counted and named in the manifest: a real report may
name it among others, an exam question gives it away. --drop_named leaves such cases out.
"""

import argparse
import collections
import hashlib
import re
import sys
from pathlib import Path

from data_prep import egress
from data_prep.benchmarks import pick, prompt_file, read_prompt, texts
from data_prep.files import (
    check_out,
    one_sentence,
    open_text,
    outline,
    read_jsonl,
    sha256,
    whole_folder,
    write_jsonl,
)
from data_prep.manifest import Drops, describe, write_manifest
from data_prep.schema import ACCESS, BadInput, check_row
from data_prep.sources.raw_files import csv_rows

TASK, PROMPT = "diagnosis", "diagnosis/differential"
NEJM_CASES = 70  # paper, "Complex clinical case diagnosis task"
NEJM_LICENSE = "copyright of the Massachusetts Medical Society, the user's own copy"


# ---------------------------------------------------------------- sources
def read_cases(path: Path, drops: Drops):
    for number, record in read_jsonl(path):
        where = f"{path}: line {number}"
        fields = pick(
            record, where, id=str, text=str, final_diagnosis=str, access=str, license=str, source=str
        )
        if fields[3] not in ACCESS:
            raise BadInput(
                f"{where}: access '{fields[3]}' is not one of {', '.join(ACCESS)}. Next: correct it"
            )
        synonyms = record.get("synonyms", [])
        if not isinstance(synonyms, list):
            raise BadInput(
                f"{where}: field 'synonyms' must be list, found {type(synonyms).__name__}. Next: correct it"
            )
        names = ("id", "text", "final_diagnosis", "access", "license", "source")
        yield dict(zip(names, fields, strict=True)) | {"synonyms": texts(synonyms, where, "synonyms")}


def read_agentclinic(path: Path, drops: Drops):
    for number, record in read_jsonl(path):
        where = f"{path}: line {number}"
        (osce,) = pick(record, where, OSCE_Examination=dict)
        pick(osce, where, Patient_Actor=dict, Correct_Diagnosis=str)
        parts = {
            key: value
            for key, value in osce.items()
            if key not in ("Objective_for_Doctor", "Correct_Diagnosis")
        }
        parts = parts.pop("Patient_Actor") | parts
        yield _case("agentclinic", number, "\n".join(outline(parts)), osce["Correct_Diagnosis"], "MIT")


def read_craftmd(path: Path, drops: Drops):
    for number, record in csv_rows(path, ("case_vignette", "answer", "dataset")):
        yield _case(
            "craftmd", f"{record['dataset']}:{number}", record["case_vignette"], record["answer"], "MIT"
        )


def read_medcasereasoning(path: Path, drops: Drops):
    for number, record in read_jsonl(path):
        text, diagnosis = pick(record, f"{path}: line {number}", case_prompt=str, final_diagnosis=str)
        yield _case("medcasereasoning", record.get("pmcid") or number, text, diagnosis, "CC BY 4.0")


def read_nejm_cpc(folder: Path, drops: Drops):
    index = folder / "index.csv"
    if not index.is_file():
        raise BadInput(
            f"{index}: no such file. Next: make it, with the columns id, final_diagnosis and synonyms"
        )
    found = set()
    for number, record in csv_rows(index, ("id", "final_diagnosis", "synonyms")):
        where, file = f"{index}: record {number}", folder / f"{record['id'].strip()}.txt"
        if not record["id"].strip() or not file.is_file():
            raise BadInput(
                f"{where}: there is no {file}. Next: put the text of the case there, up to the discussant"
            )
        with open_text(file) as stream:
            text = stream.read()
        found.add(file.name)
        synonyms = [name.strip() for name in record["synonyms"].split(";") if name.strip()]
        case = _case("nejm_cpc", record["id"].strip(), text, record["final_diagnosis"], NEJM_LICENSE)
        yield case | {"access": "gated", "synonyms": synonyms}
    for file in sorted(folder.glob("*.txt")):
        if file.name not in found:
            drops.add("nejm_cpc", "text without a line in index.csv", str(file))
    print(f"nejm_cpc: {len(found)} cases; the paper has {NEJM_CASES}", flush=True)


def _case(source: str, name, text: str, diagnosis: str, license: str) -> dict:
    return {
        "id": f"{source}:{name}",
        "text": text,
        "final_diagnosis": diagnosis,
        "synonyms": [],
        "access": "public",
        "license": license,
        "source": source,
    }


READERS = {
    "cases": read_cases,
    "agentclinic": read_agentclinic,
    "craftmd": read_craftmd,
    "medcasereasoning": read_medcasereasoning,
    "nejm_cpc": read_nejm_cpc,
}


# ---------------------------------------------------------------- rows
def names_answer(case: dict) -> bool:
    """Whether the text of a case holds its final diagnosis or a synonym as whole words, blind to case."""
    names = [case["final_diagnosis"], re.sub(r"\s*\(.*?\)", "", case["final_diagnosis"]), *case["synonyms"]]
    return any(
        re.search(rf"\b{re.escape(name.strip())}(?!\w)", case["text"], re.IGNORECASE)
        for name in names
        if name.strip()
    )


def build(sources: list[tuple[str, Path]], out: Path, drop_named: bool = False) -> dict:
    """Write OUT/diagnosis and return its manifest."""
    check_out(out / TASK)
    template, drops, rows, named, inputs, asked, ids = (
        read_prompt(PROMPT, "case"),
        Drops(),
        [],
        [],
        [],
        set(),
        set(),
    )
    for source, path in sources:
        kinds = collections.Counter()
        for case in READERS[source](path, drops):
            text, diagnosis = case["text"].strip(), case["final_diagnosis"].strip()
            kinds[case["license"], case["access"]] += 1
            if not text or not diagnosis:
                drops.add(
                    source, "no text" if not text else "no final diagnosis", f"{path}: {case['id']}", bad=True
                )
                continue
            if text in asked:
                drops.add(source, "the same text as an earlier case", f"{path}: {case['id']}")
                continue
            if names_answer(case):
                if drop_named:
                    drops.add(source, "the text holds the diagnosis", f"{path}: {case['id']}")
                    continue
                named.append(case["id"])
            if case["id"] in ids:
                raise BadInput(
                    f"{path}: case {case['id']} is there twice with different texts. Next: give each "
                    "an id of its own"
                )
            asked.add(text)
            ids.add(case["id"])
            row = {
                "id": case["id"],
                "task": TASK,
                "split": "test",
                "scoring": "diagnosis",
                "source": case["source"],
                "license": case["license"],
                "access": case["access"],
                "question": text,
                "synonyms": case["synonyms"],
                "prompt": template.format(case=text),
                "completion": diagnosis,
            }
            rows.append(check_row(row, f"{path}: {case['id']}"))
        inputs += [
            _input(source, path) | {"records": n, "license": kind[0], "access": kind[1]}
            for kind, n in sorted(kinds.items())
        ]
    if not rows:
        raise BadInput(
            f"{sources[0][1]}: holds no case with a text and a final diagnosis. Next: see the formats in "
            "data_prep/build_cases.py"
        )

    with whole_folder(out / TASK) as folder:
        write_jsonl(folder / "test.jsonl", rows)
        manifest = write_manifest(
            folder,
            stage="build_cases",
            arguments={"sources": [[s, str(p)] for s, p in sources], "drop_named": drop_named},
            inputs=inputs,
            dropped=drops.as_dict(),
            outputs=[describe(folder, folder / "test.jsonl", records=len(rows))],
            task=TASK,
            scoring="diagnosis",
            prompt={"path": f"data_prep/prompts/{PROMPT}.txt", "sha256": sha256(prompt_file(PROMPT))},
            text_holds_diagnosis=named,
        )
    for source in dict.fromkeys(source for source, _ in sources):
        print(
            f"{source}: {sum(i['records'] for i in inputs if i['source'] == source)} cases; dropped: "
            f"{drops.summary(source)}",
            flush=True,
        )
    if named:
        print(
            f"the text holds the diagnosis of {len(named)} of {len(rows)} cases (see the manifest, "
            "and --drop_named)",
            flush=True,
        )
    print(f"wrote {out / TASK}: {len(rows)} cases, access {manifest['access']}", flush=True)
    return manifest


def _input(source: str, path: Path) -> dict:
    """The manifest entry of a source: each of its files with its sha256, and `sha256sum FILES |
    sha256sum`."""
    paths = [path] if path.is_file() else sorted([path / "index.csv", *path.glob("*.txt")])
    files = [{"path": file.name, "sha256": sha256(file)} for file in paths]
    lines = "".join(f"{file['sha256']}  {file['path']}\n" for file in files)
    return {
        "source": source,
        "path": str(path),
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
        "files": files,
    }


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--source",
        action="append",
        required=True,
        metavar="NAME=PATH",
        help=f"NAME is one of {', '.join(READERS)}; repeatable",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder that takes the folder diagnosis")
    parser.add_argument(
        "--drop_named", action="store_true", help="leave out cases whose text holds the diagnosis"
    )
    return parser


def main(argv=None) -> None:
    args = make_parser().parse_args(argv)
    with one_sentence():
        sources = []
        for given in args.source:
            name, _, path = given.partition("=")
            if name not in READERS or not path:
                raise BadInput(f"--source {given}: must be NAME=PATH, NAME one of {', '.join(READERS)}")
            if not Path(path).exists():
                raise BadInput(
                    f"{path}: no such file or folder. Next: --source {name}=PATH, of the format in "
                    "data_prep/build_cases.py"
                )
            sources.append((name, Path(path)))
        build(sources, args.out, args.drop_named)


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput)
    main()
