# Me-LLaMA Recipes: the table of contents. `make` lists the targets; each is one command that you can also type.
#   CONFIG  YAML of a run              ACCEL  accelerate file of the machine     ARGS  more arguments of the command
#   RAW     the publishers' files      DATA   where data targets write (data)    ROWS  folder of task rows
#   MODEL   a folder or a name         TASKS  benchmarks, with commas            OUT   the folder of a release
PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
DATA   ?= data
need    = $(or $($1),$(error $1 is not given. Next: make $@ $2))
own     = $(PY) demo.py $1 && echo "Your own run: make $@ $2"
export HF_HUB_DISABLE_TELEMETRY := 1
export PYTHONPATH ?= .
help: ; @awk -F':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile  ## this list
TARGETS := $(shell sed -n 's/^\([a-z-]*\):.*/\1/p' Makefile)
.PHONY: $(TARGETS)
$(filter-out help setup hello constraints demo-clean,$(TARGETS)): | $(VENV)/.installed
test test-fast guarantees lint: | $(VENV)/.installed-dev
# ---------------------------------------------------------------- set-up and demo
setup: $(VENV)/.installed  ## make .venv with the pinned packages (Python 3.11 or 3.12)
PIP     = $(PY) -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
MAKE_VENV = $(PYTHON) -m venv --upgrade-deps $(if $(wildcard $(VENV)/.unfinished),--clear) $(VENV) && touch $(VENV)/.unfinished  # pip fails on half a package
COMPILE = $(PY) -m compileall -q -j 0 -x /tests/ $(VENV)/lib >/dev/null  # or each process does, where bytecode is not written
$(VENV)/.installed: requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || \
		{ echo "error: $(PYTHON) is not Python 3.11 or 3.12. Next: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@echo "Set-up in $(VENV): downloads, unpacks and compiles torch, transformers and others; minutes, once"
	$(MAKE_VENV) && $(PIP) -r requirements.txt && { $(COMPILE); mv $(VENV)/.unfinished $@; }
$(VENV)/.installed-%: requirements-%.txt $(VENV)/.installed
	$(PIP) -r $< || { echo "error: $@ is not whole. Next: the same command again, or rm -r $(VENV) before it"; exit 1; }; $(COMPILE); touch $@
constraints:  ## write constraints.txt: the version of each package that a fresh set-up would bring along today
	$(PYTHON) -m pip install --dry-run --ignore-installed --quiet --report - -r requirements.txt -r requirements-dev.txt \
		| $(PYTHON) -c 'import json, sys; print(*sorted("{name}=={version}".format(**item["metadata"]).lower().split("+")[0] for item in json.load(sys.stdin)["install"]), sep="\n")' > constraints.new && mv constraints.new constraints.txt
hello: | $(VENV)/.light  ## a page in a minute, without training: two baselines on invented questions, scored
	$(PY) demo.py hello
LIGHT = $(shell sed -nE 's/^((numpy|pydantic|PyYAML|Jinja2|matplotlib|rouge-score|pyarrow|zstandard|regex|lxml|openpyxl)==[^ ]+).*/\1/p' requirements.txt)
$(VENV)/.light: ; test -e $(VENV)/.installed || { $(MAKE_VENV) && $(PIP) $(LIGHT) && rm $(VENV)/.unfinished; } && touch $@
demo:  ## the whole chain on invented data, on a CPU: raw files to report. DEMO=full: also all twelve benchmarks
	$(PY) demo.py $(if $(filter full,$(DEMO)),--full)
real:  ## [RAW=DIR MODEL=DIR_OR_NAME ARGS=--list]: the same chain on a small real model and real text (make fetch), on a CPU
	$(PY) real.py $(RAW:%=--raw %) $(MODEL:%=--model %) $(ARGS)
demo-clean: ; rm -rf data/demo outputs/demo  ## remove what the demo wrote
# ---------------------------------------------------------------- data
fetch:  ## SOURCES="pubmedqa medqa pubmed:2 ..." [RAW=data/raw]: public files from their publishers, resumed and checked
	$(PY) -m data_prep.fetch $(call need,SOURCES,SOURCES="pubmedqa medqa pubmed:2") --raw $(or $(RAW),data/raw) $(ARGS)
describe:  ## FROM=DIR_OR_TABLE ARGS="--access credentialed [--kind notes|instructions|choice|labels]": your own data
	$(PY) -m data_prep.describe '$(call need,FROM,FROM=my_notes ARGS="--access credentialed")' $(ARGS)
corpus:  ## SOURCES="pubmed=DIR ..." TOKENIZER=MODEL [PLAN=YAML ROWS= MIXTURE=YAML EXECUTOR=]: raw files to packed blocks
	$(PY) -m data_prep.build_documents $(SOURCE) --out $(DATA)/corpus/documents $(ON)
	$(if $(PLAN),$(PY) -m data_prep.clean_documents --documents $(DATA)/corpus/documents $(ROWS:%=--rows %) \
		--plan $(PLAN) --out $(DATA)/corpus/clean $(ON))
	$(PY) -m data_prep.build_blocks --documents $(DATA)/corpus/$(if $(PLAN),clean,documents) --mixture $(MIXTURE) \
		--tokenizer $(call need,TOKENIZER,TOKENIZER=MODEL) --out $(DATA)/corpus/blocks $(ON)
SOURCE   = $(patsubst %,--source %,$(call need,SOURCES,SOURCES="pubmed=DIR pmc=DIR" TOKENIZER=MODEL))
ON       = --executor $(or $(EXECUTOR),local)
MIXTURE ?= data_prep/mixtures/one_pass.yaml
corpus-plan:  ## MIXTURE=YAML [SOURCES= TOKENIZER=]: tokens, passes, disk and core-hours, before anything runs
	$(PY) -m data_prep.corpus.estimate --mixture $(MIXTURE) $(if $(SOURCES),$(SOURCE) --tokenizer $(call need,TOKENIZER,SOURCES="$(SOURCES)" TOKENIZER=MODEL))
corpus-audit:  ## [BLOCKS=data/corpus/blocks]: prove packed blocks against their manifest
	$(PY) -m data_prep.corpus.audit $(or $(BLOCKS),$(DATA)/corpus/blocks) $(ARGS)
tasks:  ## RAW=DIR [TASKS=medqa,...]: raw benchmark files to task rows
	$(PY) -m data_prep.build_tasks --raw $(call need,RAW,RAW=DIR) --tasks $(or $(TASKS),all) --out $(DATA)/tasks
tasks-status:  ## [RAW=data/raw]: which of the twelve benchmarks are ready, and what to do for the others
	$(PY) -m data_prep.tasks_status --raw $(or $(RAW),data/raw) --rows $(DATA)/tasks
instructions:  ## RAW=DIR [INSTRUCTIONS=alpaca,...]: raw instruction files to instruction rows
	$(PY) -m data_prep.build_instructions --raw $(call need,RAW,RAW=DIR) --out $(DATA)/instructions $(ARGS) \
		$(if $(findstring --plan,$(ARGS)),$(INSTRUCTIONS:%=--sources %),--sources $(or $(INSTRUCTIONS),alpaca,dolly,sharegpt,flashcards))
preferences:  ## [RAW=DIR] ARGS="--sources ultramedical --task_rows data/tasks --task_names medqa": pairs of answers for dpo
	$(PY) -m data_prep.build_preferences $(RAW:%=--raw %) --out $(DATA)/preferences $(ARGS)
# ---------------------------------------------------------------- training; without CONFIG the demo's stage, else PREFLIGHT=no leaves out the checks
plan:  ## CONFIG=YAML ACCEL=YAML GPU=h100 [ARGS=]: memory, hours, network, disk and cost before anything runs
	$(PY) -m recipes.tools.plan --config $(call need,CONFIG,CONFIG=recipes/configs/pretrain_70b.yaml ACCEL= GPU=) \
		--accelerate $(MACHINE) --gpu $(call need,GPU,CONFIG=$(CONFIG) ACCEL=$(ACCEL) GPU=a100-80) $(ARGS)
ACCEL  ?= $(if $(CONFIG:recipes/configs/demo_%=),,accelerate_configs/cpu.yaml)
MACHINE = $(or $(wildcard $(ACCEL)),$(error ACCEL names no file. Next: make $@ CONFIG=$(or $(CONFIG),YAML) ACCEL=accelerate_configs/single_gpu.yaml))
LAUNCH  = $(VENV)/bin/accelerate launch -q --config_file $(MACHINE)
RANKS   = --world_size $(shell sed -n 's/^num_processes: *\([0-9]*\).*/\1/p' $(ACCEL))
CHECK   = $(LAUNCH) -m recipes.tools.preflight --config $(call need,CONFIG,CONFIG=recipes/configs/demo_chat.yaml) $(RANKS) $(ARGS)
TRAIN   = $(if $(filter no,$(PREFLIGHT)),,$(CHECK) $(PREFLIGHT_ARGS) && )$(LAUNCH)
train   = $(if $(CONFIG),$(TRAIN) recipes/$1.py --config $(CONFIG) $(RANKS) $(ARGS),$(call own,$2,$3))
preflight:  ## CONFIG=YAML [ACCEL=YAML ARGS=]: pre-launch checks on real samples, as the trainer will see them
	$(CHECK) $(PREFLIGHT_ARGS)
pretrain:  ## [CONFIG=YAML ACCEL=YAML ARGS=]: continual pretraining
	$(call train,pretrain,foundation,CONFIG=recipes/configs/pretrain_13b.yaml ACCEL=accelerate_configs/zero2_8gpu.yaml)
sft:  ## [CONFIG=YAML ACCEL=YAML ARGS=]: instruction tuning
	$(call train,sft,chat_adapter,CONFIG=recipes/configs/sft_13b_qlora.yaml ACCEL=accelerate_configs/single_gpu.yaml)
finetune:  ## [CONFIG=YAML ACCEL=YAML ARGS=]: fine-tuning on one benchmark
	$(call train,sft,task,CONFIG=recipes/configs/finetune_task_13b.yaml ACCEL=accelerate_configs/zero2_8gpu.yaml)
dpo:  ## [CONFIG=YAML ACCEL=YAML ARGS=]: direct preference optimization of a chat model
	$(call train,dpo,--full dpo,CONFIG=recipes/configs/dpo_llama31_8b_lora.yaml ACCEL=accelerate_configs/single_gpu.yaml)
grpo:  ## [CONFIG=YAML ACCEL=YAML ARGS=]: GRPO of a chat model, with rewards that can be verified
	$(call train,grpo,--full grpo,CONFIG=recipes/configs/grpo_llama31_8b_lora.yaml ACCEL=accelerate_configs/single_gpu.yaml)
merge:  ## [CONFIG=YAML ARGS=]: adapter and base to one model
	$(if $(CONFIG),$(PY) recipes/merge_adapter.py --config $(CONFIG) $(ARGS),$(call own,chat,CONFIG=YAML))
mixture-study:  ## [CONFIG=YAML ACCEL=YAML ARGS=]: small runs at several ratios, a mixing law, its best ratio checked
	$(if $(CONFIG),,$(PY) demo.py clean backbone)
	$(PY) -m recipes.tools.mixture_study --config $(or $(CONFIG),recipes/configs/mixture_study_demo.yaml) --accelerate $(MACHINE) $(ARGS)
# ---------------------------------------------------------------- evaluation
NAME = $(notdir $(patsubst %/,%,$(call need,MODEL,MODEL=DIR)))
evaluate:  ## [MODEL=DIR TASKS=medqa,... RAW=DIR or ROWS=DIR PRESET=chat|paper ARGS=]: task rows to outputs and scores
	$(if $(MODEL)$(TASKS)$(RAW)$(ROWS),$(EVALUATE),$(call own,evaluation_chat,MODEL=outputs/demo/chat TASKS=all ROWS=data/demo/tasks))
EVALUATE = $(if $(RAW),$(PY) -m data_prep.build_tasks --raw $(RAW) --tasks $(subst _letters,,$(subst _ll,,$(TASKS))) --out $(DATA)/tasks &&) \
	$(PY) -m evaluation.generate --model $(MODEL) --rows $(or $(ROWS),$(DATA)/tasks) --preset $(or $(PRESET),chat) \
	--tasks $(call need,TASKS,MODEL=$(MODEL) TASKS=medqa) --out outputs/evaluation/$(NAME) $(ARGS) && \
	$(PY) -m evaluation.score outputs/evaluation/$(NAME)
chat:  ## MODEL=DIR [WEB=yes ARGS="--system TEXT"]: talk to a model, in the terminal or on a page of this machine
	@$(PY) -m evaluation.chat --model $(call need,MODEL,MODEL=outputs/demo/chat) $(if $(WEB),--web) $(ARGS)
serve: | $(VENV)/.installed$(if $(filter-out transformers,$(BACKEND)),,-serve)  ## MODEL=DIR [BACKEND=transformers|vllm|llama.cpp|ollama ARGS=]: an OpenAI-compatible server
	$(PY) -m evaluation.serve --model $(call need,MODEL,MODEL=outputs/demo/chat) --backend $(or $(BACKEND),transformers) $(ARGS)
bertscore:  ## MODEL=DIR ENCODER=DIR [ARGS=]: BERTScore of generated summaries, then their scores
	$(PY) -m evaluation.bertscore outputs/evaluation/$(NAME) --model $(call need,ENCODER,MODEL=DIR ENCODER=DIR) $(ARGS)
	$(PY) -m evaluation.score outputs/evaluation/$(NAME)
stock:  ## RAW=DIR MODEL=DIR [SHOTS=5 ARGS=]: lm-eval's medqa_4options, medmcqa, pubmedqa, careqa_en, medical MMLU, as it asks them
	$(PY) -m evaluation.stock --data $(call need,RAW,RAW=DIR MODEL=DIR) --out $(DATA)/stock $(SHOTS:%=--num_fewshot %)
	$(MAKE) evaluate PRESET=paper ROWS=$(DATA)/stock TASKS=stock RAW=
diagnose:  ## CASES="agentclinic=FILE ..." MODEL=DIR [JUDGE=string PRESET= ARGS=]: cases to ranked differentials, judged
	$(PY) -m data_prep.build_cases $(patsubst %,--source %,$(call need,CASES,CASES="agentclinic=FILE")) --out $(DATA)/cases
	$(PY) -m evaluation.generate --model $(MODEL) --rows $(DATA)/cases --tasks diagnosis --preset $(or $(PRESET),chat) \
		--out outputs/diagnosis/$(NAME) $(ARGS)
	$(PY) -m evaluation.judge outputs/diagnosis/$(NAME) $(patsubst %,--judge %,$(or $(JUDGE),string)) \
		--out outputs/judged/$(NAME) $(JUDGE_ARGS)
forgetting:  ## BASE=MODEL TUNED="MODEL ..." [TASKS=general GENERAL=DIR GATE=YAML ARGS=]: general tasks before and after
	$(PY) -m evaluation.forgetting --base $(call need,BASE,BASE=llama-2-13b TUNED=outputs/my_13b) --out outputs/forgetting \
		--tuned $(call need,TUNED,BASE=$(BASE) TUNED=outputs/my_13b) --tasks $(or $(TASKS),general) \
		$(GENERAL:%=--data %) --gate $(or $(GATE),evaluation/gates/default.yaml) $(ARGS)
ABLATE = $(PY) -m evaluation.ablation --plan $1 --out outputs/ablation/$(basename $(notdir $1))$(SHOTS:%=_%shot) $(SHOTS:%=--shots %)
ablation:  ## [CONFIG=YAML SHOTS=5 ARGS=--scored]: the paper's Table 5 or 6 for any checkpoints, with paired differences
	$(call ABLATE,$(or $(CONFIG),evaluation/plans/demo.yaml)) $(ARGS)
supervised:  ## [ARGS=--cost]: the paper's Table 4: each base model trained on each benchmark, and scored
	$(call ABLATE,$(or $(CONFIG),evaluation/plans/table4.yaml)) $(ARGS)
report:  ## [CONFIG=YAML EVALUATION=outputs/evaluation RUNS=DIR ARGS=]: scores beside the paper's tables, one page
	$(PY) -m evaluation.report --evaluation $(or $(EVALUATION),outputs/evaluation) $(CONFIG:%=--config %) $(RUNS:%=--runs %) --out outputs/report $(ARGS)
# ---------------------------------------------------------------- release
release:  ## RUN=DIR [OUT=DIR SCORES=JSON FORGETTING=JSON ARGS=]: a run to a verified folder, or a bundle that stays here
	$(PY) -m recipes.release build $(or $(OUT),outputs/release/$(notdir $(RUN:/=))) --run $(call need,RUN,RUN=outputs/demo/chat) \
		$(SCORES:%=--scores %) $(FORGETTING:%=--forgetting %) $(EXTRACTION:%=--extraction %) $(ARGS)
release-verify:  ## OUT=DIR [RUN=DIR]: open a release again and prove it
	$(PY) -m recipes.release verify $(call need,OUT,OUT=outputs/release/chat) $(RUN:%=--run %)
release-push:  ## OUT=DIR REPO=organization/name [ARGS=--public]: to the Hub, private; never a credentialed one
	$(PY) -m recipes.release push $(call need,OUT,OUT=DIR REPO=ours/name) --repo $(call need,REPO,OUT=$(OUT) REPO=ours/name) $(ARGS)
# ---------------------------------------------------------------- tests and measurements
PYTEST = $(PY) -m pytest --numprocesses $$(($$(nproc) + 1)) --maxprocesses 4 --dist loadfile --no-loadscope-reorder  # some tests wait
test:  ## set up and run the tests
	$(PYTEST) --durations 10 $(ARGS)
test-fast:  ## a minute: readers, rows, parsing, metrics, commands, the demo's driver; nothing that trains
	$(PYTEST) tests/data_prep/test_[abfilopst]*.py tests/evaluation/test_[bmp]*.py tests/test_[cdg]*.py $(ARGS)
guarantees:  ## the tests behind GUARANTEES.md
	$(PYTEST) -m guarantee $(ARGS)
test-cluster:  ## multinode.slurm on a real Slurm of two nodes, set up here as root
	CLUSTER=1 $(PY) -m pytest tests/cluster $(ARGS)
lint: ; $(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .  ## ruff
fault-run:  ## [ARGS="--kills 2"]: disturb each stage of the demo in eight ways, some 200 trials; the same bytes come out
	$(PY) -m tests.fault_run $(or $(ARGS),--stages)
bench:  ## speed on this CPU, as ratios, each against the bare way. ARGS=--growth: the corpus at 30, 100 and 300 MB
	$(PY) -m data_prep.corpus.bench --out outputs/bench/corpus $(filter --growth,$(ARGS))
	$(if $(filter --growth,$(ARGS)),,$(PY) demo.py documents && \
		$(PY) -m recipes.tools.bench --documents data/demo/documents --out outputs/bench/recipes $(ARGS) && \
		$(PY) -m evaluation.bench --out outputs/bench/evaluation)
bench-gpu:  ## speed on a GPU at 7B and 13B, against stock TRL and a bare loop [ARGS="--results RESULTS.md"]
	$(PY) demo.py documents
	$(PY) -m recipes.tools.bench_gpu --documents data/demo/documents --out outputs/bench_gpu $(ARGS)
