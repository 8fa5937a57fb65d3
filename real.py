"""The chain of demo.py on a real model and real text, on a CPU: `make real` runs it; stages() is the chain.

    python real.py --raw data/raw                  SmolLM2-135M-Instruct; its last line names the report
    python real.py --model DIR --raw data/raw      another small model of your own
    python real.py --raw data/raw --gpu            trains on a GPU, where the YAMLs say a CPU
    python real.py --raw data/raw real_foundation  one stage, and the stages that it needs
    python real.py --raw data/raw --full real_needles   also needles beyond its context length: 40 min
    python real.py --list                          the stages with their commands; runs nothing

Reads   RAW: files of `make fetch SOURCES="pubmed:1 pmc_oa:1 pubmedqa medqa medmcqa mediqa2019"`; medicationqa
        and mmlu too if present (without mmlu its questions come from the Hub)
Writes  data/real, outputs/real; what its commands print is in outputs/real/log/NAME.log

It skips itself with one sentence where neither the Hub nor a package registry has the model. Stages and
stamps are demo.py's. What it is meant to show was written first, in evaluation/claims/real.yaml.
"""

import argparse
import re
import shlex
from dataclasses import replace
from pathlib import Path

import demo
from demo import Stage

NEEDED = ("pubmed", "pmc", "pubmedqa", "medqa", "medmcqa", "mediqa2019")
MODELS = (("base", "paper"), ("control", "paper"), ("foundation", "paper"), ("chat", "chat"))
CHOICES = "pubmedqa_ll,medqa_letters_ll,medmcqa_letters_ll"


def stages(model: str | None, raw: str) -> list[Stage]:
    """The chain for a model (None: the default) and the folder of the publishers' files."""
    answers = ["mediqa2019", *(["medicationqa"] if Path(raw, "medicationqa").is_dir() else [])]
    has_mmlu, raw = Path(raw, "mmlu").is_dir(), shlex.quote(raw)
    general = f"--data {raw}" if has_mmlu else ""
    chosen = f"--model {shlex.quote(model)}" if model else ""
    return [
        # -------------------------------------------------------------- data
        Stage("real_model", "the model", 50, "outputs/real/model", "", f"""
            python -m data_prep.base_model {chosen} --out outputs/real/model"""),
        Stage("real_documents", "abstracts and papers, and Python's manual as general text", 5,
              "data/real/raw data/real/documents", "", f"""
            python -m data_prep.real_text --raw {raw} --out data/real/raw
            python -m data_prep.build_documents --source pubmed=data/real/raw/pubmed \
                --source pmc=data/real/raw/pmc \
                --source plain=data/real/raw/python_manual --out data/real/documents"""),
        Stage("real_tasks", "benchmark rows", 5, "data/real/tasks", "", f"""
            python -m data_prep.build_tasks --raw {raw} --tasks pubmedqa,medqa,medmcqa \
                --out data/real/tasks"""),
        Stage("real_clean", "documents without evaluation rows and duplicates", 8, "data/real/clean",
              "real_documents real_tasks", """
            python -m data_prep.clean_documents --documents data/real/documents --rows data/real/tasks \
                --plan data_prep/cleaning_plans/real.yaml --out data/real/clean"""),
        Stage("real_blocks", "blocks with 20 % general text, and the control's of general text only", 20,
              "data/real/blocks data/real/blocks_general", "real_clean real_model", """
            python -m data_prep.build_blocks --documents data/real/clean --tokenizer outputs/real/model \
                --mixture data_prep/mixtures/real.yaml --out data/real/blocks
            python -m data_prep.build_blocks --documents data/real/clean --tokenizer outputs/real/model \
                --mixture data_prep/mixtures/real_general.yaml --out data/real/blocks_general"""),
        Stage("real_instructions", "real questions with answers of medical libraries", 5,
              "data/real/instructions", "real_tasks", f"""
            python -m data_prep.build_instructions --raw {raw} --task_rows data/real/tasks \
                --sources {",".join(answers)} --size {" ".join(f"{name}=40" for name in answers)} \
                --out data/real/instructions"""),
        # -------------------------------------------------------------- training
        Stage("real_foundation", "continual pretraining", 450, "outputs/real/foundation", "real_blocks", """
            python recipes/pretrain.py --config recipes/configs/real_foundation.yaml"""),
        Stage("real_control_trained", "the control: general text only", 420, "outputs/real/control_trained",
              "real_blocks", """
            python recipes/pretrain.py --config recipes/configs/real_foundation.yaml \
                --blocks data/real/blocks_general --output_dir outputs/real/control_trained"""),
        *(Stage(f"real_{name}", f"{what} measured on the held-out blocks: a run with learning rate 0", 195,
                f"outputs/real/{name}", f"real_blocks {after}".strip(), f"""
            python recipes/pretrain.py --config recipes/configs/real_foundation.yaml --learning_rate 0 \
                --max_steps 1 --per_device_train_batch_size 1 --global_batch_tokens 512 \
                --model_name_or_path outputs/real/{source} --output_dir outputs/real/{name}""")
          for name, what, source, after in (
              ("base", "the model", "model", "real_model"),
              ("control", "the control", "control_trained", "real_control_trained"))),
        Stage("real_chat_adapter", "LoRA instruction tuning of the foundation model", 385,
              "outputs/real/chat_adapter", "real_foundation real_instructions", """
            python recipes/sft.py --config recipes/configs/real_chat.yaml"""),
        Stage("real_chat", "the adapter merged into its base", 7, "outputs/real/chat",
              "real_chat_adapter", """
            python recipes/merge_adapter.py --adapter outputs/real/chat_adapter \
                --output_dir outputs/real/chat"""),
        # -------------------------------------------------------------- evaluation
        # in float32: without its instructions a CPU takes three to six times as long in bfloat16
        *(Stage(f"real_evaluation_{name}", f"answers and scores of {name}", 215,
                f"outputs/real/evaluation/{name}", f"real_{name} real_tasks", f"""
            python -m evaluation.generate --model outputs/real/{name} --rows data/real/tasks \
                --tasks {CHOICES},pubmedqa,medqa,medmcqa --preset {preset} --limit 20 --max_new_tokens 12 \
                --dtype float32 --out outputs/real/evaluation/{name}
            python -m evaluation.score outputs/real/evaluation/{name}""")
          for name, preset in MODELS),
        Stage("real_forgetting", "general questions before and after training", 115,
              "outputs/real/forgetting", "real_base real_control real_foundation real_chat", f"""
            python -m evaluation.forgetting --base outputs/real/base \
                --tuned outputs/real/control outputs/real/foundation outputs/real/chat {general} \
                --tasks mmlu_answers --limit 5 --num_fewshot 0 --dtype float32 \
                --gate evaluation/gates/demo.yaml --out outputs/real/forgetting"""),
        Stage("real_report", "one page", 10, "outputs/real/report",
              "real_evaluation_base real_evaluation_control real_evaluation_foundation real_evaluation_chat "
              "real_forgetting", """
            python -m evaluation.report --config evaluation/claims/real.yaml --runs outputs/real \
                --evaluation outputs/real/evaluation --forgetting outputs/real/forgetting/forgetting.json \
                --show_texts --out outputs/real/report"""),
    ]  # fmt: skip


# The claim, written before it was run and after a pilot with ten examples: with YaRN of factor 2, and no
# training, the model finds needles beyond its 8,192 positions that it does not find as it is. Not shown
# (RESULTS.md).
FULL = [
    Stage("real_scaled", "twice the positions, by the config alone", 195, "outputs/real/scaled",
          "real_blocks real_model", """
        python recipes/pretrain.py --config recipes/configs/real_scaled.yaml"""),
    Stage("real_needles", "needles beyond the model's positions, with scaling and without", 2500,
          "outputs/real/needles", "real_scaled", """
        python -m evaluation.long_context outputs/real/model outputs/real/scaled --old_length 8192 \
            --lengths 9216 --depths 2 --repeats 6 --dtype float32 --out outputs/real/needles"""),
]  # fmt: skip


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="folder, or name of the Hub; default: SmolLM2-135M-Instruct")
    parser.add_argument("--raw", default="data/raw", help="the publishers' files")
    parser.add_argument("--gpu", action="store_true", help="train on a GPU")
    parser.add_argument("--full", action="store_true", help="also needles beyond its context length: 40 min")
    demo.add_arguments(parser)
    args = parser.parse_args(argv)
    if args.full and args.model:
        parser.error(
            "--full scales the default model's positions. Next: a copy of recipes/configs/real_scaled.yaml"
        )
    missing = [name for name in NEEDED if not Path(args.raw, name).is_dir()]
    if missing and not args.list:
        parser.error(
            f"{args.raw}: no {', '.join(missing)}. Next: make fetch "
            'SOURCES="pubmed:1 pmc_oa:1 pubmedqa medqa medmcqa mediqa2019", or RAW=DIR'
        )
    if not Path(args.raw, "mmlu").is_dir():
        print(
            f"note: no {args.raw}/mmlu (evaluation/tasks/general.py has its layout): the Hub is asked for it"
        )
    chain = stages(args.model, args.raw) + FULL * args.full
    if args.gpu:
        trained = r"(recipes/(?:pretrain|sft)\.py --config \S+)"
        chain = [replace(stage, run=re.sub(trained, r"\1 --use_cpu false", stage.run)) for stage in chain]
    demo.drive(chain, args, parser, Path("outputs/real"))


if __name__ == "__main__":
    main()
