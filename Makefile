# Me-LLaMA Recipes: the table of contents. `make` lists the targets; each is one visible command.
#
#   make demo                                        the whole chain on invented data, on a CPU
#   make test                                        set up and run the tests
#   make pretrain CONFIG=my.yaml ACCEL=accelerate_configs/cpu.yaml ARGS="--learning_rate 1e-5"

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
ACCEL ?= accelerate_configs/cpu.yaml
LAUNCH = $(VENV)/bin/accelerate launch -q --config_file $(ACCEL)
RANKS = $(shell sed -n 's/^num_processes: *\([0-9]*\).*/\1/p' $(ACCEL) 2>/dev/null)
DATA ?= data
ARGS ?=
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM ?= true
export PYTHONPATH := .

.DEFAULT_GOAL := help
.SECONDARY:
.PHONY: help setup demo demo-clean test lint fetch describe corpus corpus-plan corpus-audit tasks tasks-status instructions plan plan-sweep preflight pretrain sft merge finetune evaluate bertscore diagnose forgetting ablation mixture-study report release release-verify release-push guarantees fault-run bench bench-gpu

name = $(notdir $(patsubst %/,%,$(1)))
# A run of your own names its machine; the demo's YAMLs are made for this one
machine = @$(if $(and $(filter file,$(origin ACCEL)),$(filter-out demo_%,$(notdir $(CONFIG)))),\
	echo 'error: ACCEL is not given. Next: make $@ CONFIG=$(CONFIG) ACCEL=accelerate_configs/$(1)'; exit 1,\
	grep -qs '^distributed_type:' $(ACCEL) || { echo 'error: $(ACCEL): no accelerate file. Next: make $@ CONFIG=$(CONFIG) ACCEL=accelerate_configs/$(1)'; exit 1; })
need = @test -n "$($(1))" || { echo 'error: $(1) is not given. Next: make $@ $(1)=$(2)'; exit 1; }

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---------------------------------------------------------------- set up
# Bytecode once, on every core: containers set PYTHONDONTWRITEBYTECODE, and each process would compile torch and transformers anew
COMPILE = $(PY) -m compileall -q -j 0 $(VENV)/lib >/dev/null || true
setup: $(VENV)/.installed  ## make .venv and install requirements.txt (Python 3.11 or 3.12)

$(VENV)/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.version_info[:2] in ((3, 11), (3, 12)) or sys.exit(f"error: Python 3.11 or 3.12 is needed, {sys.executable} is {sys.version.split()[0]}. Next: make $(MAKECMDGOALS) PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt
	$(COMPILE)
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(PY) -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-dev.txt
	$(COMPILE)
	@touch $@

# ---------------------------------------------------------------- stages, for your own files: the same commands as the demo's, with your paths
fetch: $(VENV)/.installed  ## SOURCES="pubmedqa medqa pubmed:2 ..." [RAW=data/raw]: public files from their publishers, resumed and checked
	$(call need,SOURCES,"pubmedqa medqa pubmed:2")
	$(PY) -m data_prep.fetch $(SOURCES) --raw $(or $(RAW),data/raw) $(ARGS)

describe: $(VENV)/.installed  ## FROM=DIR_OR_TABLE ARGS="--access credentialed [--kind notes|instructions|choice|labels]": your own data, once
	$(call need,FROM,my_notes)
	$(PY) -m data_prep.describe $(FROM) $(ARGS)

corpus: $(VENV)/.installed  ## SOURCES="pubmed=DIR pmc=DIR ..." TOKENIZER=MODEL [PLAN= ROWS= MIXTURE= EXECUTOR= DATA=]: raw files -> documents -> clean -> packed blocks
	$(call need,SOURCES,"pubmed=DIR pmc=DIR" TOKENIZER=MODEL)
	$(call need,TOKENIZER,MODEL)
	$(PY) -m data_prep.build_documents $(foreach source,$(SOURCES),--source $(source)) --out $(CORPUS)/documents --executor $(EXECUTOR)
	$(if $(PLAN),$(PY) -m data_prep.clean_documents --documents $(CORPUS)/documents $(if $(ROWS),--rows $(ROWS)) --plan $(PLAN) --out $(CORPUS)/clean --executor $(EXECUTOR))
	$(PY) -m data_prep.build_blocks --documents $(CORPUS)/$(if $(PLAN),clean,documents) --tokenizer $(TOKENIZER) --mixture $(MIXTURE) --out $(CORPUS)/blocks --executor $(EXECUTOR)

corpus-plan: $(VENV)/.installed  ## MIXTURE=YAML [SOURCES= with TOKENIZER=MODEL]: tokens, passes, disk and core-hours, before anything runs
	$(if $(SOURCES),$(call need,TOKENIZER,MODEL))
	$(PY) -m data_prep.corpus.estimate $(foreach source,$(SOURCES),--source $(source)) $(if $(SOURCES),--tokenizer $(TOKENIZER)) --mixture $(MIXTURE)

corpus-audit: $(VENV)/.installed  ## [BLOCKS=data/corpus/blocks]: prove packed blocks against their manifest
	$(PY) -m data_prep.corpus.audit $(or $(BLOCKS),$(CORPUS)/blocks) $(ARGS)
corpus corpus-audit: CORPUS = $(DATA)/corpus
EXECUTOR ?= local
PLAN ?=
TOKENIZER ?=
MIXTURE ?= data_prep/mixtures/one_pass.yaml

tasks: $(VENV)/.installed  ## RAW=DIR [TASKS=medqa,... DATA=]: raw benchmark files -> task rows
	$(call need,RAW,DIR)
	$(PY) -m data_prep.build_tasks --raw $(RAW) --tasks $(or $(TASKS),all) --out $(DATA)/tasks
TASKS ?=
RAW ?=

tasks-status: $(VENV)/.installed  ## [RAW=data/raw DATA=]: which of the twelve benchmarks are ready, and what to do for the others
	$(PY) -m data_prep.tasks_status --raw $(or $(RAW),data/raw) --rows $(DATA)/tasks

instructions: $(VENV)/.installed  ## RAW=DIR [INSTRUCTIONS=alpaca,... DATA=]: raw instruction files -> instruction rows
	$(call need,RAW,DIR)
	$(PY) -m data_prep.build_instructions --raw $(RAW) --sources $(INSTRUCTIONS) --out $(DATA)/instructions $(ARGS)
INSTRUCTIONS ?= alpaca,dolly,sharegpt,flashcards

# Training targets look at their rows first; PREFLIGHT=no skips it. ARGS goes to both, PREFLIGHT_ARGS to the look alone.
PREFLIGHT ?= yes
PREFLIGHT_ARGS ?=
LOOK = $(if $(filter no,$(PREFLIGHT)),@echo "preflight of $(CONFIG): skipped (PREFLIGHT=no)",$(LAUNCH) recipes/preflight.py --config $(CONFIG) --world_size $(RANKS) $(ARGS) $(PREFLIGHT_ARGS))

preflight: $(VENV)/.installed  ## CONFIG=YAML [ACCEL=YAML ARGS= PREFLIGHT_ARGS=]: decode real rows and find what is wrong before the machine is paid for
	$(call need,CONFIG,recipes/configs/demo_chat.yaml)
	$(call machine,single_gpu.yaml)
	$(LOOK)

pretrain: $(VENV)/.installed  ## CONFIG=YAML [ACCEL=YAML ARGS=]: continual pretraining
	$(call need,CONFIG,recipes/configs/demo_foundation.yaml)
	$(call machine,zero3_8gpu.yaml)
	$(LOOK)
	$(LAUNCH) recipes/pretrain.py --config $(CONFIG) --world_size $(RANKS) $(ARGS)

plan: $(VENV)/.installed  ## CONFIG=YAML ACCEL=YAML GPU=a100-80|h100|h200|rtx4090|... [ARGS=]: memory, hours, network, disk and cost before anything runs
	$(call need,CONFIG,recipes/configs/pretrain_70b.yaml ACCEL=accelerate_configs/zero3_160gpu.yaml GPU=a100-80)
	$(call need,GPU,a100-80)
	$(call machine,zero3_160gpu.yaml)
	$(PY) recipes/plan.py --config $(CONFIG) --accelerate $(ACCEL) --gpu $(GPU) $(ARGS)

plan-sweep: $(VENV)/.installed  ## [GPU=a100-80 ARGS=]: a picture of memory and hours on 1 to 1,024 GPUs, for 13B and 70B: outputs/plan/sweep.png
	$(PY) recipes/plan.py --config recipes/configs/pretrain_13b.yaml recipes/configs/pretrain_70b.yaml --gpu $(or $(GPU),a100-80) --sweep outputs/plan $(ARGS)

sft: $(VENV)/.installed  ## CONFIG=YAML [ACCEL=YAML ARGS=]: instruction tuning
	$(call need,CONFIG,recipes/configs/demo_chat.yaml)
	$(call machine,single_gpu.yaml)
	$(LOOK)
	$(LAUNCH) recipes/sft.py --config $(CONFIG) --world_size $(RANKS) $(ARGS)

merge: $(VENV)/.installed  ## CONFIG=YAML [ARGS=]: adapter + base -> model
	$(call need,CONFIG,recipes/configs/demo_chat_merge.yaml)
	$(PY) recipes/merge_adapter.py --config $(CONFIG) $(ARGS)

finetune: $(VENV)/.installed  ## CONFIG=YAML [ACCEL=YAML ARGS=]: fine-tuning for one benchmark task
	$(call need,CONFIG,recipes/configs/demo_task.yaml)
	$(call machine,single_gpu.yaml)
	$(LOOK)
	$(LAUNCH) recipes/finetune_task.py --config $(CONFIG) --world_size $(RANKS) $(ARGS)

evaluate: $(VENV)/.installed  ## TASKS=medqa,... [RAW=DIR or ROWS=DIR, MODEL=DIR PRESET=chat|paper]: rows -> outputs -> scores
	$(call need,TASKS,medqa)
	$(if $(RAW),$(PY) -m data_prep.build_tasks --raw $(RAW) --tasks $(subst _ll,,$(TASKS)) --out $(ROWS))
	$(PY) -m evaluation.generate --model $(MODEL) --rows $(ROWS) --tasks $(TASKS) --preset $(PRESET) --out $(EVALUATION) $(ARGS)
	$(PY) -m evaluation.score $(EVALUATION)
evaluate: ROWS ?= $(if $(RAW),$(DATA)/tasks,data/demo/tasks)
evaluate: EVALUATION = outputs/evaluation/$(call name,$(MODEL))

bertscore: $(VENV)/.installed  ## ENCODER=DIR [LAYER=9 MODEL= EVALUATION=]: BERTScore of generated summaries, then their scores
	$(call need,ENCODER,models/bert-base-multilingual-cased)
	$(PY) -m evaluation.bertscore $(EVALUATION) --model $(ENCODER) $(if $(LAYER),--layer $(LAYER))
	$(PY) -m evaluation.score $(EVALUATION)

report: $(VENV)/.installed  ## [EVALUATED=outputs/evaluation CONFIG=YAML RUNS=DIR ARGS=]: scores -> the article's tables beside yours, one page
	$(PY) -m evaluation.report --evaluation $(EVALUATED) $(if $(CONFIG),--config $(CONFIG)) $(if $(RUNS),--runs $(RUNS)) --out outputs/report $(ARGS)
EVALUATED ?= outputs/evaluation

forgetting: $(VENV)/.installed  ## BASE=MODEL TUNED="MODEL ..." [GENERAL=DIR TASKS=general GATE=YAML ARGS=]: general tasks before and after training, with a gate
	$(call need,BASE,llama-2-13b TUNED=outputs/my_13b)
	$(call need,TUNED,outputs/my_13b)
	$(PY) -m evaluation.forgetting --base $(BASE) --tuned $(TUNED) $(if $(GENERAL),--data $(GENERAL)) --tasks $(or $(TASKS),general) $(if $(GATE),--gate $(GATE)) --out outputs/forgetting $(ARGS)
GATE ?= evaluation/gates/default.yaml

diagnose: $(VENV)/.installed  ## CASES="agentclinic=FILE cases=FILE" [MODEL=DIR JUDGE="string ..." JUDGE_ARGS= PRESET= ARGS=]: cases -> ranked differentials -> top-1 to top-5
	$(call need,CASES,"agentclinic=FILE")
	$(PY) -m data_prep.build_cases $(foreach case,$(CASES),--source $(case)) --out $(DATA)/cases
	$(PY) -m evaluation.generate --model $(MODEL) --rows $(DATA)/cases --tasks diagnosis --preset $(PRESET) --out outputs/diagnosis/$(call name,$(MODEL)) $(ARGS)
	$(PY) -m evaluation.judge outputs/diagnosis/$(call name,$(MODEL)) $(foreach judge,$(JUDGE),--judge $(judge)) --out outputs/judged/$(call name,$(MODEL)) $(JUDGE_ARGS)
JUDGE ?= string
JUDGE_ARGS ?=

ablation: $(VENV)/.installed  ## [PLAN=YAML ARGS=--scored]: the article's Table 6 for any checkpoints, running what is missing, with paired differences
	$(PY) -m evaluation.ablation --plan $(or $(PLAN),evaluation/plans/demo.yaml) --out outputs/ablation/$(basename $(notdir $(or $(PLAN),demo))) $(ARGS)

bertscore: EVALUATION = outputs/evaluation/$(call name,$(MODEL))
MODEL ?= outputs/demo/chat
PRESET ?= chat

release: $(VENV)/.installed  ## RUN=DIR [OUT=DIR SCORES=JSON FORGETTING=JSON ARGS=]: run -> a verified folder that can be published, or a local bundle
	$(call need,RUN,outputs/demo/chat)
	$(PY) -m recipes.release build $(OUT) --run $(RUN) $(if $(SCORES),--scores $(SCORES)) $(if $(FORGETTING),--forgetting $(FORGETTING)) $(ARGS)
release: OUT ?= outputs/release/$(call name,$(RUN))

release-verify: $(VENV)/.installed  ## OUT=DIR [RUN=DIR]: open a release again and prove it
	$(call need,OUT,outputs/release/chat)
	$(PY) -m recipes.release verify $(OUT) $(if $(RUN),--run $(RUN))

release-push: $(VENV)/.installed  ## OUT=DIR REPO=organisation/name [ARGS=--public]: send it to the Hub, privately; never a credentialed one
	$(call need,OUT,outputs/release/chat REPO=organisation/name)
	$(call need,REPO,organisation/name)
	$(PY) -m recipes.release push $(OUT) --repo $(REPO) $(ARGS)

# ---------------------------------------------------------------- tests
test: $(VENV)/.installed-dev  ## set up and run the tests
	$(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

guarantees: $(VENV)/.installed-dev  ## run the tests behind GUARANTEES.md
	$(PY) -m pytest -m guarantee --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

fault-run: $(VENV)/.installed  ## [ARGS="--kills 2 --seed 0"]: kill the demo at random moments of every stage; its report must come out the same
	$(PY) tests/fault_run.py $(ARGS)

lint: $(VENV)/.installed-dev  ## ruff
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

# ---------------------------------------------------------------- the demo: the same commands on invented data
# Each rule makes one thing, names what it is made from, and leaves it whole or not at all: a second `make demo` does again only what changed,
# and an interrupted one goes on where it was (inside a training run, from its last checkpoint: its folder stays, only .complete is missing).
D := data/demo
O := outputs/demo
DEMO_SOURCES := pubmed pmc mimic_iii mimic_iv_note mimic_cxr redpajama
DEMO_TASKS := emrqa,i2b2,ddi,mtsamples,mimic_cxr,mednli
CONTRACTS := data_prep/schema.py data_prep/files.py data_prep/manifest.py
ENGINE := $(CONTRACTS) data_prep/corpus/executors.py data_prep/corpus/documents.py
CLEAN := data_prep/clean_documents.py $(wildcard data_prep/corpus/*.py)
BLOCKS_CODE := data_prep/build_blocks.py data_prep/corpus/tokenize.py data_prep/corpus/dataset_card.py
EVALUATE := $(CONTRACTS) evaluation/generate.py evaluation/score.py $(wildcard evaluation/scoring/*.py evaluation/models/* evaluation/tasks/*)
DEMO_LAUNCH := OMP_NUM_THREADS=$(shell getconf _NPROCESSORS_ONLN) $(VENV)/bin/accelerate launch -q --config_file accelerate_configs/cpu.yaml
DEMO_RECIPE = $(DEMO_LAUNCH) $(1) --config $(2) --overwrite true
# a stage looks at its rows first, once: its control and the backbone are the same recipe
TRAIN = $(if $(filter no,$(PREFLIGHT)),,$(DEMO_LAUNCH) recipes/preflight.py --config $(2) --sample 200 &&) $(DEMO_RECIPE)
CPU := accelerate_configs/cpu.yaml
DEMO_PRESET = chat
GENERATE = $(PY) -m evaluation.generate --model $(O)/$(1) --rows $(D)/tasks --tasks medqa_ll,$(DEMO_TASKS) --preset $(2) --max_new_tokens 96 --batch_size 64 --out $(O)/evaluation/$(1)
SCORE = $(PY) -m evaluation.score $(O)/evaluation/$(1)

DEMO_DATA := $(addprefix $(D)/,raw/README.md documents/manifest.json clean/manifest.json backbone_config/config.json blocks_general/manifest.json \
	blocks/manifest.json tasks/.built instructions/manifest.json)
DEMO_RESULTS := $(foreach m,backbone foundation backbone_chat chat task,$(O)/evaluation/$(m)/scores.json) \
	$(addprefix $(O)/,judged/summary.json forgetting/forgetting.json ablation/table6.json report/report.html release/SHA256SUMS.txt)
DEMO_MODELS := $(addprefix $(O)/,$(addsuffix /.complete,backbone foundation chat_adapter backbone_chat_adapter chat backbone_chat task))

.PRECIOUS: $(DEMO_DATA) $(DEMO_MODELS) $(DEMO_RESULTS)  # each is whole when it is there

demo: $(DEMO_DATA) $(DEMO_MODELS) $(DEMO_RESULTS)  ## the whole chain, raw sources to report, on a CPU with invented data
	@echo; echo "The demo is complete. Open $(O)/report/report.html"

demo-clean:  ## remove what the demo wrote
	rm -rf $(D) $(O)

DEMO_STUDY := recipes/configs/mixture_study_demo.yaml
mixture-study: $(VENV)/.installed  ## [CONFIG=YAML ACCEL=YAML ARGS=]: proxies at several ratios, a mixing law, its best ratio checked by a run of its own
	$(if $(and $(CONFIG),$(filter file,$(origin ACCEL))),$(error ACCEL is not given. Next: make $@ CONFIG=$(CONFIG) ACCEL=accelerate_configs/zero2_8gpu.yaml))
	$(PY) recipes/mixture_study.py --config $(or $(CONFIG),$(DEMO_STUDY)) --accelerate $(ACCEL) $(ARGS)
ifeq ($(or $(CONFIG),$(DEMO_STUDY)),$(DEMO_STUDY))
mixture-study: $(D)/clean/manifest.json $(O)/backbone/.complete
mixture-study: export OMP_NUM_THREADS = $(shell getconf _NPROCESSORS_ONLN)
endif

bench: $(VENV)/.installed $(D)/documents/manifest.json  ## speed on this CPU, as ratios: corpus, recipes, generation, each against the bare way
	$(PY) -m data_prep.corpus.bench --out outputs/bench/corpus
	$(PY) recipes/bench.py --documents $(D)/documents --out outputs/bench/recipes $(ARGS)
	$(PY) -m evaluation.bench --out outputs/bench/evaluation

bench-gpu: $(VENV)/.installed $(D)/documents/manifest.json  ## speed on a GPU at 7B and 13B, against stock TRL and a bare loop [ARGS="--results RESULTS.md"]
	$(PY) recipes/bench_gpu.py --documents $(D)/documents --out outputs/bench_gpu $(ARGS)

$(D)/raw/README.md: data_prep/demo/sources.py data_prep/demo/world.py $(wildcard data_prep/prompts/*.txt) $(VENV)/.installed
	@echo "[1/20] invented raw sources"
	$(PY) -m data_prep.demo.sources --out $(D)/raw

$(D)/documents/manifest.json: $(D)/raw/README.md data_prep/build_documents.py $(ENGINE) $(wildcard data_prep/sources/*.py)
	@echo "[2/20] documents"
	$(PY) -m data_prep.build_documents $(foreach s,$(DEMO_SOURCES),--source $(s)=$(D)/raw/$(s)) --out $(D)/documents

$(D)/tasks/.built: $(D)/raw/README.md data_prep/build_tasks.py $(CONTRACTS) $(wildcard data_prep/benchmarks/*.py data_prep/prompts/*.txt)
	@echo "[3/20] task rows"
	$(PY) -m data_prep.build_tasks --raw $(D)/raw --tasks medqa,$(DEMO_TASKS) --out $(D)/tasks
	@touch $@

$(D)/clean/manifest.json: $(D)/documents/manifest.json $(D)/tasks/.built $(CLEAN) data_prep/cleaning_plans/demo.yaml $(ENGINE)
	@echo "[4/20] clean documents: repaired, without the evaluation rows, without duplicates"
	$(PY) -m data_prep.clean_documents --documents $(D)/documents --rows $(D)/tasks --plan data_prep/cleaning_plans/demo.yaml --out $(D)/clean

$(D)/backbone_config/config.json: $(D)/clean/manifest.json data_prep/demo/backbone.py $(wildcard data_prep/prompts/*.txt)
	@echo "[5/20] tokenizer and shape of the backbone"
	$(PY) -m data_prep.demo.backbone --documents $(D)/clean --out $(D)/backbone_config

$(D)/blocks_general/manifest.json: $(D)/backbone_config/config.json $(BLOCKS_CODE) data_prep/mixtures/demo_general.yaml $(ENGINE)
	@echo "[6/20] packed blocks of general text, for the backbone"
	$(PY) -m data_prep.build_blocks --documents $(D)/clean --tokenizer $(D)/backbone_config --mixture data_prep/mixtures/demo_general.yaml --out $(D)/blocks_general

$(D)/blocks/manifest.json: $(D)/backbone_config/config.json $(BLOCKS_CODE) data_prep/mixtures/demo.yaml $(ENGINE)
	@echo "[7/20] packed blocks in the 15:1:4 mixture, for continual pretraining"
	$(PY) -m data_prep.build_blocks --documents $(D)/clean --tokenizer $(D)/backbone_config --mixture data_prep/mixtures/demo.yaml --out $(D)/blocks
	$(PY) -m data_prep.corpus.audit $(D)/blocks

$(D)/instructions/manifest.json: $(D)/tasks/.built data_prep/build_instructions.py $(wildcard data_prep/instructions/*.py) $(CONTRACTS)
	@echo "[8/20] instruction rows"
	$(PY) -m data_prep.build_instructions --raw $(D)/raw --sources alpaca,dolly,sharegpt,flashcards --task_rows $(D)/tasks --task_names $(DEMO_TASKS) --size mtsamples=60 emrqa=240 i2b2=240 ddi=120 mednli=160 mimic_cxr=140 alpaca=100 dolly=100 --out $(D)/instructions

$(O)/backbone/.complete: $(D)/blocks_general/manifest.json recipes/pretrain.py recipes/run_guard.py recipes/egress.py recipes/configs/demo_backbone.yaml $(CPU)
	@echo "[9/20] backbone: a tiny LLaMA on general text only, which stands for LLaMA-2"
	$(call DEMO_RECIPE,recipes/pretrain.py,recipes/configs/demo_backbone.yaml)
	@touch $@

$(O)/foundation/.complete: $(O)/backbone/.complete $(D)/blocks/manifest.json recipes/pretrain.py recipes/run_guard.py recipes/egress.py recipes/configs/demo_foundation.yaml $(CPU)
	@echo "[10/20] foundation model: continual pretraining of the backbone"
	$(call TRAIN,recipes/pretrain.py,recipes/configs/demo_foundation.yaml)
	@touch $@

$(O)/chat_adapter/.complete: $(O)/foundation/.complete $(D)/instructions/manifest.json recipes/sft.py recipes/run_guard.py recipes/egress.py recipes/chat_template.jinja recipes/configs/demo_chat.yaml $(CPU)
	@echo "[11/20] chat model: LoRA instruction tuning of the foundation model"
	$(call TRAIN,recipes/sft.py,recipes/configs/demo_chat.yaml)
	@touch $@

$(O)/backbone_chat_adapter/.complete: $(O)/backbone/.complete $(D)/instructions/manifest.json recipes/sft.py recipes/run_guard.py recipes/egress.py recipes/chat_template.jinja recipes/configs/demo_backbone_chat.yaml $(CPU)
	@echo "[12/20] control: the same instruction tuning of the backbone"
	$(call DEMO_RECIPE,recipes/sft.py,recipes/configs/demo_backbone_chat.yaml)
	@touch $@

$(O)/%/.complete: $(O)/%_adapter/.complete recipes/merge_adapter.py recipes/run_guard.py recipes/egress.py recipes/configs/demo_%_merge.yaml
	@echo "[13/20] merge: $*"
	$(PY) recipes/merge_adapter.py --config recipes/configs/demo_$*_merge.yaml --overwrite true
	@touch $@

$(O)/task/.complete: $(O)/foundation/.complete $(D)/tasks/.built recipes/finetune_task.py recipes/run_guard.py recipes/egress.py recipes/configs/demo_task.yaml $(CPU)
	@echo "[14/20] task model: the foundation model fine-tuned on one task"
	$(call TRAIN,recipes/finetune_task.py,recipes/configs/demo_task.yaml)
	@touch $@

$(O)/evaluation/backbone/scores.json $(O)/evaluation/foundation/scores.json $(O)/evaluation/task/scores.json: DEMO_PRESET = paper
$(O)/evaluation/%/scores.json: $(O)/%/.complete $(D)/tasks/.built $(EVALUATE)
	@echo "[15/20] evaluation: $*"
	$(call GENERATE,$*,$(DEMO_PRESET))
	$(call SCORE,$*)

$(D)/cases/diagnosis/manifest.json: $(D)/raw/README.md data_prep/build_cases.py data_prep/prompts/diagnosis/differential.txt $(CONTRACTS)
	$(PY) -m data_prep.build_cases --source agentclinic=$(D)/raw/case_diagnosis/agentclinic_medqa.jsonl --source cases=$(D)/raw/case_diagnosis/cases.jsonl --out $(D)/cases

$(O)/judged/summary.json: $(O)/chat/.complete $(D)/cases/diagnosis/manifest.json $(EVALUATE) evaluation/judge.py $(wildcard evaluation/diagnosis/*.py)
	@echo "[16/20] clinical cases: ranked differentials, judged"
	$(PY) -m evaluation.generate --model $(O)/chat --rows $(D)/cases --tasks diagnosis --preset chat --max_new_tokens 96 --batch_size 24 --out $(O)/diagnosis/chat
	$(PY) -m evaluation.judge $(O)/diagnosis/chat --judge string --out $(O)/judged

$(O)/forgetting/forgetting.json: $(foreach m,backbone foundation backbone_chat chat,$(O)/$(m)/.complete) $(D)/raw/README.md evaluation/gates/demo.yaml $(addprefix evaluation/,forgetting.py generate.py reporting/forgetting_page.py) $(CONTRACTS)
	@echo "[17/20] forgetting: general questions before and after training"
	$(PY) -m evaluation.forgetting --base $(O)/backbone --tuned $(O)/foundation $(O)/backbone_chat $(O)/chat --data $(D)/raw/general_questions --tasks mmlu_answers --gate evaluation/gates/demo.yaml --batch_size 64 --out $(O)/forgetting || { touch -c -t 197001020000 $@; exit 1; }

$(O)/ablation/table6.json: $(foreach m,backbone foundation backbone_chat chat,$(O)/evaluation/$(m)/scores.json) evaluation/ablation.py evaluation/scoring/compare.py evaluation/score.py evaluation/scoring/run_outputs.py evaluation/reporting/tables.py evaluation/plans/demo.yaml
	@echo "[18/20] ablation: what each stage adds"
	$(PY) -m evaluation.ablation --plan evaluation/plans/demo.yaml --scored --out $(O)/ablation

$(O)/report/report.html: $(O)/forgetting/forgetting.json $(O)/judged/summary.json $(foreach m,backbone foundation backbone_chat chat task,$(O)/evaluation/$(m)/scores.json) $(wildcard evaluation/report.*) $(addprefix evaluation/,score.py) $(wildcard evaluation/reporting/* evaluation/scoring/*.py) evaluation/claims/demo.yaml $(CONTRACTS)
	@echo "[19/20] report"
	$(PY) -m evaluation.report --config evaluation/claims/demo.yaml --evaluation $(O)/evaluation --runs $(O) --forgetting $(O)/forgetting/forgetting.json --diagnosis $(O)/judged --show_texts --out $(O)/report

$(O)/release/SHA256SUMS.txt: $(O)/report/report.html $(wildcard recipes/release/*.*)
	@echo "[20/20] release: the chat model as a bundle that stays here, for it has read credentialed stand-ins"
	$(PY) -m recipes.release build $(O)/release --name demo-chat --run $(O)/chat --scores $(O)/evaluation/chat/scores.json --forgetting $(O)/forgetting/forgetting.json

# make demo DEMO=full: beyond the chain above, every source and every benchmark of the article, from stand-ins in their raw formats
F := $(D)/full
TWELVE := pubmedqa,medqa,medmcqa,emrqa,i2b2,ddi,hoc,mtsamples,pubmed_summ,mimic_cxr,bionli,mednli
ifeq ($(DEMO),full)
demo: $(O)/evaluation_full/chat/scores.json
endif

$(F)/instructions/manifest.json: $(D)/raw/README.md $(wildcard data_prep/*.py data_prep/*/*.py data_prep/prompts/*.txt data_prep/instructions/paper.yaml)
	@echo "[full] every source of the article"
	$(PY) -m data_prep.demo.sources --full --out $(F)/raw
	$(PY) -m data_prep.build_documents --source pmc=$(F)/raw/pmc --out $(F)/documents
	$(PY) -m data_prep.build_tasks --raw $(F)/raw --tasks all --out $(F)/tasks
	$(PY) -m data_prep.tasks_status --raw $(F)/raw --rows $(F)/tasks
	$(PY) -m data_prep.build_instructions --raw $(F)/raw --documents $(F)/documents --plan data_prep/instructions/paper.yaml --task_rows $(F)/tasks --out $(F)/instructions

$(O)/evaluation_full/chat/scores.json: $(O)/chat/.complete $(F)/instructions/manifest.json $(EVALUATE)
	@echo "[full] the chat model on all twelve benchmarks"
	$(PY) -m evaluation.generate --model $(O)/chat --rows $(F)/tasks --tasks $(TWELVE) --preset chat --max_new_tokens 96 --batch_size 64 --allow_overlong --out $(O)/evaluation_full/chat
	$(PY) -m evaluation.score $(O)/evaluation_full/chat
