"""The demo: invented raw files to report and release, on a CPU. `make demo` runs it; STAGES is the chain.

    python demo.py                   the whole chain; its last line names the report
    python demo.py chat_adapter      one stage, and the stages that it needs
    python demo.py hello             no training: two baselines on invented questions, scored, on a page
    python demo.py --full            also every source and benchmark of the paper, DPO, GRPO, longer context
    python demo.py --list            the stages with their commands; runs nothing

A stage is the commands that you would type, and names the stages whose output it reads. Independent stages
run side by side, one core and one thread each: the figures do not depend on the number of cores. A stage is
done as long as outputs/demo/.stages/NAME.json holds its fingerprint: its commands, the files they name, the
modules they import (comments aside) and the fingerprints of the stages before. An interrupted stage resumes;
a changed one starts again in an empty folder. What its commands print is in outputs/demo/log/NAME.log. On
Linux without a GPU, commands that need torch are forked from this process, which loads the libraries once:
ten seconds saved for each.
"""

import argparse
import ast
import ctypes
import errno
import hashlib
import json
import multiprocessing
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OUT = Path("outputs/demo")  # with the stamps in .stages and a log of each stage in log
SKIPPED = 75  # status of a command that says why the chain cannot run here: not a failure
TORCH = ("recipes/", "recipes.tools.", "evaluation.generate", "evaluation.forgetting")
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCHDYNAMO_DISABLE": "1",  # or peft's bitsandbytes imports the compiler
}


@dataclass
class Stage:
    name: str
    title: str
    seconds: int  # on one core of a 2-core x86-64 machine; the last run on this machine replaces it
    makes: str  # the folders that it writes, separated by blanks
    after: str  # the stages that it reads, separated by blanks
    run: str  # one command or several, each begins a line with `python`

    def commands(self):
        return [shlex.split(part) for part in re.split(r"(?m)^\s*(?=python )", self.run) if part.strip()]


ALL_TASKS = "medqa_ll,emrqa,i2b2,ddi,mtsamples,mimic_cxr,mednli"
STAGES = [
    # ------------------------------------------------------------------ data
    Stage("raw", "invented raw files, in the publishers' formats", 3, "data/demo/raw", "", """
        python -m data_prep.demo.sources --out data/demo/raw"""),
    Stage("documents", "documents from six sources", 5, "data/demo/documents", "raw", """
        python -m data_prep.build_documents --out data/demo/documents \
            --source pubmed=data/demo/raw/pubmed --source pmc=data/demo/raw/pmc \
            --source mimic_iii=data/demo/raw/mimic_iii --source mimic_iv_note=data/demo/raw/mimic_iv_note \
            --source mimic_cxr=data/demo/raw/mimic_cxr --source redpajama=data/demo/raw/redpajama"""),
    Stage("tasks", "benchmark rows", 2, "data/demo/tasks", "raw", """
        python -m data_prep.build_tasks --raw data/demo/raw --out data/demo/tasks \
            --tasks medqa,emrqa,i2b2,ddi,mtsamples,mimic_cxr,mednli"""),
    Stage("clean", "documents without evaluation rows and duplicates", 10, "data/demo/clean",
          "documents tasks", """
        python -m data_prep.clean_documents --documents data/demo/documents --rows data/demo/tasks \
            --plan data_prep/cleaning_plans/demo.yaml --out data/demo/clean"""),
    Stage("tokenizer", "tokenizer and shape of the backbone", 11, "data/demo/backbone_config", "clean", """
        python -m data_prep.demo.backbone --documents data/demo/clean --out data/demo/backbone_config"""),
    Stage("general_blocks", "blocks of general text", 11, "data/demo/blocks_general", "tokenizer", """
        python -m data_prep.build_blocks --documents data/demo/clean --tokenizer data/demo/backbone_config \
            --mixture data_prep/mixtures/demo_general.yaml --out data/demo/blocks_general"""),
    Stage("blocks", "blocks in the paper's 15:1:4 mixture", 25, "data/demo/blocks", "tokenizer", """
        python -m data_prep.build_blocks --documents data/demo/clean --tokenizer data/demo/backbone_config \
            --mixture data_prep/mixtures/demo.yaml --out data/demo/blocks
        python -m data_prep.corpus.audit data/demo/blocks"""),
    Stage("instructions", "instruction rows", 2, "data/demo/instructions", "tasks", """
        python -m data_prep.build_instructions --raw data/demo/raw --task_rows data/demo/tasks \
            --sources alpaca,dolly,sharegpt,flashcards,differentials \
            --task_names emrqa,i2b2,ddi,mtsamples,mimic_cxr,mednli \
            --size mtsamples=40 emrqa=120 i2b2=240 ddi=120 mednli=100 mimic_cxr=100 alpaca=60 dolly=60 \
            flashcards=240 --out data/demo/instructions"""),
    Stage("cases", "clinical cases", 1, "data/demo/cases", "raw", """
        python -m data_prep.build_cases --out data/demo/cases \
            --source agentclinic=data/demo/raw/case_diagnosis/agentclinic_medqa.jsonl \
            --source cases=data/demo/raw/case_diagnosis/cases.jsonl"""),
    # ------------------------------------------------------------------ training
    Stage("backbone", "a tiny LLaMA on general text; it stands for LLaMA-2", 60, "outputs/demo/backbone",
          "general_blocks", """
        python recipes/pretrain.py --config recipes/configs/demo_backbone.yaml"""),
    Stage("foundation", "continual pretraining of the backbone", 130, "outputs/demo/foundation",
          "backbone blocks", """
        python -m recipes.tools.preflight --config recipes/configs/demo_foundation.yaml --sample 200
        python recipes/pretrain.py --config recipes/configs/demo_foundation.yaml"""),
    Stage("chat_adapter", "LoRA instruction tuning of the foundation model", 135, "outputs/demo/chat_adapter",
          "foundation instructions", """
        python -m recipes.tools.preflight --config recipes/configs/demo_chat.yaml --sample 200
        python recipes/sft.py --config recipes/configs/demo_chat.yaml"""),
    Stage("backbone_chat_adapter", "the control: the same tuning of the backbone", 120,
          "outputs/demo/backbone_chat_adapter", "backbone instructions", """
        python recipes/sft.py --config recipes/configs/demo_backbone_chat.yaml"""),
    Stage("chat", "the adapter merged into its base", 1, "outputs/demo/chat", "chat_adapter", """
        python recipes/merge_adapter.py --config recipes/configs/demo_chat_merge.yaml"""),
    Stage("backbone_chat", "the control's adapter merged", 1, "outputs/demo/backbone_chat",
          "backbone_chat_adapter", """
        python recipes/merge_adapter.py --config recipes/configs/demo_backbone_chat_merge.yaml"""),
    Stage("task", "the foundation model fine-tuned on one benchmark", 65, "outputs/demo/task",
          "foundation tasks", """
        python -m recipes.tools.preflight --config recipes/configs/demo_task.yaml --sample 200
        python recipes/sft.py --config recipes/configs/demo_task.yaml"""),
    # ------------------------------------------------------------------ evaluation
    *(Stage(f"evaluation_{model}", f"answers and scores of {model}", 16, f"outputs/demo/evaluation/{model}",
            f"{model} tasks", f"""
        python -m evaluation.generate --model outputs/demo/{model} --rows data/demo/tasks --preset {preset} \
            --tasks {tasks} --max_new_tokens 96 --batch_size 64 --out outputs/demo/evaluation/{model}
        python -m evaluation.score outputs/demo/evaluation/{model}""")
      for model, preset, tasks in (("backbone", "paper", "medqa_ll"), ("foundation", "paper", ALL_TASKS),
                                   ("task", "paper", "i2b2"), ("backbone_chat", "chat", ALL_TASKS),
                                   ("chat", "chat", ALL_TASKS))),
    Stage("diagnosis", "ranked differentials on clinical cases, judged", 7,
          "outputs/demo/diagnosis outputs/demo/judged", "chat cases", """
        python -m evaluation.generate --model outputs/demo/chat --rows data/demo/cases --tasks diagnosis \
            --preset chat --max_new_tokens 96 --batch_size 24 --out outputs/demo/diagnosis/chat
        python -m evaluation.judge outputs/demo/diagnosis/chat --judge string --out outputs/demo/judged"""),
    Stage("forgetting", "general questions before and after training", 27, "outputs/demo/forgetting",
          "backbone foundation backbone_chat chat", """
        python -m evaluation.forgetting --base outputs/demo/backbone \
            --tuned outputs/demo/foundation outputs/demo/backbone_chat outputs/demo/chat \
            --data data/demo/raw/general_questions --tasks mmlu_answers --gate evaluation/gates/demo.yaml \
            --batch_size 64 --out outputs/demo/forgetting"""),
    Stage("ablation", "what each stage adds", 6, "outputs/demo/ablation",
          "evaluation_backbone evaluation_foundation evaluation_backbone_chat evaluation_chat", """
        python -m evaluation.ablation --plan evaluation/plans/demo.yaml --scored \
            --out outputs/demo/ablation"""),
    Stage("report", "one page", 5, "outputs/demo/report",
          "evaluation_backbone evaluation_foundation evaluation_task evaluation_backbone_chat "
          "evaluation_chat diagnosis forgetting", """
        python -m evaluation.report --config evaluation/claims/demo.yaml --runs outputs/demo \
            --evaluation outputs/demo/evaluation --forgetting outputs/demo/forgetting/forgetting.json \
            --diagnosis outputs/demo/judged --show_texts --out outputs/demo/report"""),
    Stage("release", "the chat model as an on-site-only bundle: it has read credentialed stand-ins", 12,
          "outputs/demo/release", "chat evaluation_chat forgetting", """
        python -m recipes.release build outputs/demo/release --name demo-chat --run outputs/demo/chat \
            --scores outputs/demo/evaluation/chat/scores.json \
            --forgetting outputs/demo/forgetting/forgetting.json"""),
]  # fmt: skip
HELLO = [
    Stage("hello", "what a model has to beat: two baselines, scored, on a page", 15, "outputs/demo/hello",
          "tasks", """
        python -m evaluation.baselines --rows data/demo/tasks --out outputs/demo/hello/evaluation
        python -m evaluation.score outputs/demo/hello/evaluation/majority outputs/demo/hello/evaluation/chance
        python -m evaluation.report --evaluation outputs/demo/hello/evaluation --show_texts \
            --out outputs/demo/hello/report"""),
]  # fmt: skip
FULL = [
    Stage("full_data", "every source and benchmark of the paper", 20, "data/demo/full", "raw", """
        python -m data_prep.demo.sources --full --out data/demo/full/raw
        python -m data_prep.build_documents --source pmc=data/demo/full/raw/pmc --out data/demo/full/documents
        python -m data_prep.build_tasks --raw data/demo/full/raw --tasks all --out data/demo/full/tasks
        python -m data_prep.tasks_status --raw data/demo/full/raw --rows data/demo/full/tasks
        python -m data_prep.build_instructions --raw data/demo/full/raw --documents data/demo/full/documents \
            --plan data_prep/instructions/paper.yaml --task_rows data/demo/full/tasks \
            --out data/demo/full/instructions"""),
    Stage("full_evaluation", "the chat model on all twelve benchmarks", 60,
          "outputs/demo/evaluation_full/chat", "full_data chat", """
        python -m evaluation.generate --model outputs/demo/chat --rows data/demo/full/tasks --preset chat \
            --tasks all --max_new_tokens 96 --batch_size 64 --allow_overlong \
            --out outputs/demo/evaluation_full/chat
        python -m evaluation.score outputs/demo/evaluation_full/chat"""),
    Stage("dpo", "the chat model on pairs made of multiple-choice questions", 40,
          "data/demo/preferences outputs/demo/dpo", "chat tasks", """
        python -m data_prep.build_preferences --task_rows data/demo/tasks --task_names medqa \
            --per_question 2 --validation 0.15 --out data/demo/preferences
        python recipes/dpo.py --config recipes/configs/demo_dpo.yaml"""),
    Stage("grpo", "the chat model on labels that the evaluation's parser verifies", 60, "outputs/demo/grpo",
          "chat tasks", """
        python recipes/grpo.py --config recipes/configs/demo_grpo.yaml"""),
    Stage("alignment", "what both did, against the chat model", 60, "outputs/demo/alignment", "dpo grpo", """
        python -m evaluation.generate --model outputs/demo/chat --rows data/demo/tasks --preset chat \
            --tasks medqa_ll,ddi --max_new_tokens 96 --batch_size 64 \
            --out outputs/demo/alignment/evaluation/chat
        python -m evaluation.generate --model outputs/demo/dpo --rows data/demo/tasks --preset chat \
            --tasks medqa_ll,ddi --max_new_tokens 96 --batch_size 64 \
            --out outputs/demo/alignment/evaluation/dpo
        python -m evaluation.generate --model outputs/demo/grpo --rows data/demo/tasks --preset chat \
            --tasks medqa_ll,ddi --max_new_tokens 96 --batch_size 64 \
            --out outputs/demo/alignment/evaluation/grpo
        python -m evaluation.score outputs/demo/alignment/evaluation/chat \
            outputs/demo/alignment/evaluation/dpo outputs/demo/alignment/evaluation/grpo
        python -m evaluation.forgetting --base outputs/demo/chat --tuned outputs/demo/dpo outputs/demo/grpo \
            --data data/demo/raw/general_questions --tasks mmlu_answers \
            --blocks data/demo/blocks_general --gate evaluation/gates/demo_alignment.yaml --batch_size 64 \
            --out outputs/demo/alignment/forgetting
        python -m evaluation.report --config evaluation/claims/demo_alignment.yaml --runs outputs/demo \
            --evaluation outputs/demo/alignment/evaluation \
            --forgetting outputs/demo/alignment/forgetting/forgetting.json --show_texts \
            --out outputs/demo/alignment/report"""),
    Stage("extended", "the foundation model on longer blocks", 120,
          "data/demo/blocks_long outputs/demo/extended", "foundation", """
        python -m data_prep.build_blocks --documents data/demo/clean --tokenizer data/demo/backbone_config \
            --mixture data_prep/mixtures/demo_long.yaml --out data/demo/blocks_long
        python recipes/pretrain.py --config recipes/configs/demo_extend.yaml"""),
    *(Stage(f"needle_{longest}", f"{model}, tuned to find a number in notes of {longest} tokens", seconds,
            f"data/demo/needles_{longest} outputs/demo/needle_{longest}", model, f"""
        python -m evaluation.needle_rows --tokenizer outputs/demo/{model} --longest {longest} \
            --out data/demo/needles_{longest}
        python recipes/sft.py --config recipes/configs/{config}.yaml""")
      for model, longest, config, seconds in (("foundation", 128, "demo_needle", 240),
                                              ("needle_128", 512, "demo_needle_extend", 420))),
    Stage("long_context", "what a longer context adds, and what it costs", 100, "outputs/demo/long_context",
          "extended needle_512 tasks", """
        python -m evaluation.long_context outputs/demo/foundation outputs/demo/extended \
            --blocks data/demo/blocks_long --lengths "" \
            --out outputs/demo/long_context/position
        python -m evaluation.long_context outputs/demo/needle_128 outputs/demo/needle_512 \
            --lengths 64,128,256,512 --repeats 20 --old_length 128 --out outputs/demo/long_context/needles
        python -m evaluation.generate --model outputs/demo/foundation --rows data/demo/tasks --preset paper \
            --tasks medqa_ll,mednli_ll,ddi_ll --batch_size 64 \
            --out outputs/demo/long_context/evaluation/foundation
        python -m evaluation.generate --model outputs/demo/extended --rows data/demo/tasks --preset paper \
            --tasks medqa_ll,mednli_ll,ddi_ll --batch_size 64 \
            --out outputs/demo/long_context/evaluation/extended
        python -m evaluation.score outputs/demo/long_context/evaluation/foundation \
            outputs/demo/long_context/evaluation/extended
        python -m evaluation.forgetting --base outputs/demo/foundation --tuned outputs/demo/extended \
            --data data/demo/raw/general_questions --tasks mmlu_answers --blocks data/demo/blocks \
            --max_general_drop 0.05 --batch_size 64 --out outputs/demo/long_context/forgetting
        python -m evaluation.report --config evaluation/claims/demo_extension.yaml --runs outputs/demo \
            --evaluation outputs/demo/long_context/evaluation \
            --forgetting outputs/demo/long_context/forgetting/forgetting.json \
            --long_context outputs/demo/long_context/position/long_context.json \
            outputs/demo/long_context/needles/long_context.json --show_texts \
            --out outputs/demo/long_context/report"""),
]  # fmt: skip


# ---------------------------------------------------------------------- what a stage depends on
@cache
def content(path: Path) -> tuple[str, frozenset[Path]]:
    """A file's SHA-256 and the Python files that it imports directly. Comments and layout do not count.

    A package whose __init__ loads its modules by name imports all of them.
    """
    if path.suffix != ".py":
        return hashlib.sha256(path.read_bytes()).hexdigest(), frozenset()
    tree, names, found = ast.parse(path.read_bytes()), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Attribute) and node.attr == "iter_modules":
            found |= set(path.parent.glob("*.py"))
    for parts in (name.split(".") for name in names):
        for end in range(1, len(parts) + 1):
            for base in (ROOT.joinpath(*parts[:end]), path.parent.joinpath(*parts[:end])):
                found |= {file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()}
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), frozenset(found)


@cache
def beside(folder: Path) -> frozenset[Path]:
    """The prompts, templates and tables in a folder of modules."""
    found = [path for pattern in ("*", "prompts/**/*") for path in folder.glob(pattern)]
    return frozenset(path for path in found if path.is_file() and path.suffix not in (".py", ".pyc"))


def files_of(command: list[str]) -> set[Path]:
    """The files of the repository on which a command depends."""
    named = {ROOT / word for word in command if not word.startswith(("data/", "outputs/"))}
    if "-m" in command:
        module = ROOT.joinpath(*command[command.index("-m") + 1].split("."))
        named.add(module / "__main__.py" if module.is_dir() else module.with_suffix(".py"))
    found = {path for path in named if path.is_file()}
    todo = {path for path in found if path.suffix == ".py"}
    while todo:
        todo |= content(todo.pop())[1] - found
        found |= todo
    return found.union(*(beside(path.parent) for path in found if path.suffix == ".py"))


def fingerprints(stages: list[Stage]) -> dict[str, str]:
    """{name of a stage: SHA-256 of its commands, their files, the pins, and the stages before}"""
    known = {}
    for stage in stages:
        files = {ROOT / "requirements.txt"}.union(*map(files_of, stage.commands()))
        parts = [shlex.join(command) for command in stage.commands()]
        parts += [f"{path.relative_to(ROOT)} {content(path)[0]}" for path in sorted(files)]
        parts += [known[name] for name in stage.after.split()]
        known[stage.name] = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return known


# ---------------------------------------------------------------------- running
def load_torch(log: int) -> bool:
    """Whether this process may be forked for commands of TORCH: on Linux without a GPU, whose driver does not
    survive a fork. What they import is then loaded, once; libraries print into `log`, a file descriptor."""
    if sys.platform != "linux":
        return False
    os.environ |= ENVIRONMENT
    glibc = ctypes.CDLL(None)  # it keeps the memory of a step for the next one, 5 % of the time:
    glibc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, bytes
    glibc.mallopt(-4, 0)  # M_MMAP_MAX
    terminal = [os.dup(1), os.dup(2)]
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        import torch

        if torch.accelerator.is_available():
            return False
        import datasets  # noqa: F401
        import deepspeed  # noqa: F401
        from transformers import AutoTokenizer, LlamaForCausalLM, Trainer  # noqa: F401
        from trl import SFTTrainer  # noqa: F401

        return True
    finally:
        for number, file in enumerate(terminal, 1):
            os.dup2(file, number)
            os.close(file)


class Fork(multiprocessing.get_context("fork").Process):
    """`python COMMAND` in a fork of this process, with what Running asks of a subprocess.Popen: poll, wait,
    terminate."""

    def __init__(self, command: list[str], log: int):
        super().__init__(target=self.work, args=(command, log))
        self.start()

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self):
        self.join()

    @staticmethod
    def work(command: list[str], log: int):
        os.dup2(log, 1)
        os.dup2(log, 2)
        try:
            if command[0] == "-m":
                sys.argv = command[1:]
                runpy.run_module(command[1], run_name="__main__", alter_sys=True)
            else:
                sys.argv, sys.path[0] = command, str(Path(command[0]).parent)
                runpy.run_path(command[0], run_name="__main__")
        except Exception:
            sys.excepthook(*sys.exc_info())
            sys.exit(1)


class Running:
    """A stage in progress: its commands one after the other, each in a process of its own."""

    def __init__(self, stage: Stage, fingerprint: str, out: Path):
        self.stage, self.commands, self.began = stage, stage.commands(), time.monotonic()
        begun = out / f".stages/{stage.name}.begun.json"
        if read(begun) != {"fingerprint": fingerprint}:  # not this same stage, interrupted
            for folder in stage.makes.split():
                shutil.rmtree(folder, ignore_errors=True)
            write(begun, {"fingerprint": fingerprint})
        self.log = out / f"log/{stage.name}.log"
        self.log.write_text("", encoding="utf-8")
        self.process = self.next()

    def next(self) -> "subprocess.Popen | Fork":
        _, *command = self.commands.pop(0)
        with self.log.open("a", encoding="utf-8") as log:
            print("$ python", shlex.join(command), file=log, flush=True)
            name = command[1] if command[0] == "-m" else command[0]
            if name.startswith(TORCH) and load_torch(log.fileno()):
                return Fork(command, log.fileno())
            return subprocess.Popen(
                [sys.executable, *command], stdout=log, stderr=subprocess.STDOUT, env=os.environ | ENVIRONMENT
            )

    def finished(self) -> bool:
        """Whether the last command has ended; exits with the end of the log if one failed."""
        if self.process.poll() == 0 and self.commands:
            self.process = self.next()
        if self.process.poll() == SKIPPED:
            print(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-1])
            sys.exit(0)
        if self.process.poll():
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
            print(*lines[-15:], sep="\n", file=sys.stderr)
            sys.exit(
                f"error: stage {self.stage.name} failed. Next: read {self.log}; the same command resumes"
            )
        return self.process.poll() == 0


def read(stamp: Path) -> dict:
    return json.loads(stamp.read_text(encoding="utf-8")) if stamp.is_file() else {}


def write(stamp: Path, facts: dict):
    partial = stamp.with_suffix(".partial")
    partial.write_text(json.dumps(facts), encoding="utf-8")
    partial.replace(stamp)


def run(stages: list[Stage], jobs: int, out: Path = OUT) -> None:
    """Run what is not done, `jobs` stages at a time, the start of the longest chain first."""
    for name in (".stages", "log"):
        (out / name).mkdir(parents=True, exist_ok=True)
    known = fingerprints(stages)
    stamps = {stage.name: read(out / f".stages/{stage.name}.json") for stage in stages}
    usual = {stage.name: stamps[stage.name].get("seconds", stage.seconds) for stage in stages}
    waiting = [
        stage
        for stage in stages
        if stamps[stage.name].get("fingerprint") != known[stage.name]
        or not all(Path(folder).is_dir() for folder in stage.makes.split())
    ]
    done = {stage.name for stage in stages if stage not in waiting}
    chain = {}  # seconds from the start of a stage to the end of all, with a core for each
    for stage in reversed(stages):
        later = [chain[other.name] for other in stages if stage.name in other.after.split()]
        chain[stage.name] = usual[stage.name] * (stage in waiting) + max(later, default=0)
    running, spent, expected = [], 0.0, 0.0
    try:
        while waiting or running:
            ready = [stage for stage in waiting if done >= set(stage.after.split())]
            for stage in sorted(ready, key=lambda stage: -chain[stage.name])[: jobs - len(running)]:
                left = max(sum(usual[other.name] for other in waiting) / jobs, chain[stage.name])
                end = time.localtime(time.time() + left * (spent / expected if expected > 20 else 1))
                print(
                    f"[{stages.index(stage) + 1}/{len(stages)}] {stage.name}: {stage.title} "
                    f"(about {usual[stage.name]:.0f} s; all is done about {time.strftime('%H:%M', end)})",
                    flush=True,
                )
                waiting.remove(stage)
                running.append(Running(stage, known[stage.name], out))
            time.sleep(0.05)
            for active in [active for active in running if active.finished()]:
                name, seconds = active.stage.name, time.monotonic() - active.began
                facts = {"fingerprint": known[name], "seconds": round(seconds, 1)}
                write(out / f".stages/{name}.json", facts)
                spent, expected = spent + seconds, expected + usual[name]
                running.remove(active)
                done.add(name)
    finally:
        for active in running:
            active.process.terminate()
        for active in running:
            active.process.wait()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="of --list; default: all")
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(4, os.cpu_count() or 1),
        help="stages at a time (default: cores, up to 4)",
    )
    parser.add_argument("--list", action="store_true", help="print the stages and their commands")


def drive(stages: list[Stage], args, parser: argparse.ArgumentParser, out: Path) -> None:
    """Run, or list, the chosen stages and what they need; OUT holds their stamps, logs and report."""
    if unknown := set(args.stages) - {stage.name for stage in stages}:
        parser.error(f"no stage {', '.join(sorted(unknown))}. Next: python {parser.prog} --list")
    needed = set(args.stages)
    for stage in reversed(stages):
        needed |= set(stage.after.split()) if stage.name in needed else set()
    stages = [stage for stage in stages if stage.name in needed or not args.stages]
    if args.list:
        for stage in stages:
            print(f"# {stage.name}: {stage.title}", *map(shlex.join, stage.commands()), "", sep="\n")
        return
    os.chdir(ROOT)
    began = time.monotonic()
    try:
        run(stages, args.jobs, out)
    except KeyboardInterrupt:
        sys.exit("error: interrupted. Next: the same command resumes")
    except OSError as error:
        more = "free space" if error.errno == errno.ENOSPC else "fix this"
        sys.exit(f"error: {error}. Next: {more}, then the same command resumes")
    made = stages[-1].makes if args.stages else out / "report"
    page = next(iter(sorted(Path(made).rglob("report.html"))), made)
    print(f"Complete after {time.monotonic() - began:.0f} s: {page}")


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="with every source and all twelve benchmarks")
    add_arguments(parser)
    args = parser.parse_args(argv)
    drive(STAGES + HELLO * ("hello" in args.stages) + FULL * args.full, args, parser, OUT)


if __name__ == "__main__":
    main()
