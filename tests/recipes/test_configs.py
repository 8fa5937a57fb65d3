"""accelerate_configs: accelerate's own loader takes every file. recipes/configs: every YAML is complete, says
where its values come from, and refuses a key that its recipe does not know."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[2]
MACHINES = sorted((ROOT / "accelerate_configs").glob("*.yaml"))
PROCESSES = {  # nodes, processes of each
    "cpu": (1, 1),
    "single_gpu": (1, 1),
    "ddp_8gpu": (1, 8),
    "zero2_8gpu": (1, 8),
    "zero3_8gpu": (1, 8),
    "ulysses_8gpu": (1, 8),
    "cp_8gpu": (1, 8),
    "zero3_160gpu": (20, 8),
    "fsdp2_160gpu": (20, 8),
}


# ---------------------------------------------------------------- accelerate
@pytest.mark.parametrize("target", ["preflight", "pretrain", "sft", "finetune", "plan"])
def test_a_run_of_your_own_names_its_machine(target):
    """What make would do: a YAML that is not the demo's is not started on this CPU in passing."""

    def planned(*given):
        command = ["make", "-n", "--no-print-directory", "-o", ".venv/.installed", target, "GPU=h100", *given]
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"MAKEFLAGS": ""}
        )

    for accel in ((), ("ACCEL=accelerate_configs/nothing.yaml",)):
        refused = planned("CONFIG=recipes/configs/sft_13b_qlora.yaml", *accel)
        assert refused.returncode and not refused.stdout
        assert f"ACCEL names no file. Next: make {target} CONFIG=recipes/configs/sft_13b" in refused.stderr
    assert "accelerate_configs/cpu.yaml" in planned("CONFIG=recipes/configs/demo_chat.yaml").stdout
    own = planned("CONFIG=my.yaml", "ACCEL=accelerate_configs/zero3_8gpu.yaml").stdout
    assert "accelerate_configs/zero3_8gpu.yaml" in own and (target == "plan" or "--world_size 8" in own)


@pytest.mark.parametrize(
    ("target", "stage"),
    [
        ("pretrain", "foundation"),
        ("sft", "chat_adapter"),
        ("finetune", "task"),
        ("evaluate", "evaluation_chat"),
    ],
)
def test_without_arguments_a_stage_is_the_demos_and_names_the_line_of_your_own(target, stage):
    command = ["make", "-n", "--no-print-directory", "-o", ".venv/.installed", target]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ | {"MAKEFLAGS": ""}
    )
    demo, own = done.stdout.strip().split(" && echo ")
    assert demo.endswith(f"demo.py {stage}") and f"make {target} " in own


@pytest.mark.parametrize("path", MACHINES, ids=lambda p: p.stem)
def test_accelerate_loads_the_file(path, tmp_path):
    config = load_config_from_file(str(path))
    nodes, per_node = PROCESSES[path.stem]
    assert (config.num_machines, config.num_processes) == (nodes, nodes * per_node)
    known = {action.dest for action in launch_command_parser()._actions}
    nested = {
        key
        for part in (config.deepspeed_config, config.fsdp_config, config.parallelism_config)
        for key in part
    }
    assert nested <= known, f"accelerate passes over {nested - known} in silence"
    assert config.use_cpu == (path.stem == "cpu") and config.to_dict()["distributed_type"] == expected_type(
        path.stem
    )
    written = yaml.safe_load(path.read_text())
    if config.deepspeed_config:
        assert "mixed_precision" not in written, "refused beside deepspeed_config_file"
        if nodes > 1:
            assert config.deepspeed_config["deepspeed_multinode_launcher"] == "standard", (
                "the default, pdsh, does not start under srun"
            )
    else:
        assert config.mixed_precision == "no", "bf16 would win over bf16: false of a recipe's YAML"
    (tmp_path / path.name).write_text(path.read_text() + "num_proceses: 3\n")
    with pytest.raises(ValueError, match="num_proceses"):
        load_config_from_file(str(tmp_path / path.name))


def expected_type(name):
    return {
        "cpu": "NO",
        "single": "NO",
        "ddp": "MULTI_GPU",
        "zero2": "DEEPSPEED",
        "zero3": "DEEPSPEED",
        "ulysses": "DEEPSPEED",
        "fsdp2": "FSDP",
        "cp": "FSDP",
    }[name.split("_")[0]]


def test_every_machine_is_there():
    assert {path.stem for path in MACHINES} == set(PROCESSES)


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_knows_every_key(stage):
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    config = json.loads((ROOT / f"accelerate_configs/zero{stage}.json").read_text())
    zero = {key: value for key, value in config["zero_optimization"].items() if value != "auto"}
    assert DeepSpeedZeroConfig(**zero).stage == stage
    with pytest.raises(ValueError, match="overlap_com"):
        DeepSpeedZeroConfig(**zero, overlap_com=True)
    assert config["data_types"] == {"grad_accum_dtype": "fp32"}, (
        "16 micro-steps summed in bf16 lose most of their digits"
    )
    if stage == 3:
        assert zero["stage3_gather_16bit_weights_on_model_save"], "save_model would write empty tensors"
    for key in (
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
    ):
        assert config[key] == "auto", "the recipe's YAML says it"


def test_the_machine_says_nothing_of_the_run():
    for path in MACHINES:
        assert not re.search(
            r"gradient_accumulation|learning_rate|batch_size|/(home|scratch|data|mnt)\b", path.read_text()
        ), path.name


# ---------------------------------------------------------------- recipes/configs
CONFIGS = sorted((ROOT / "recipes/configs").glob("*.yaml"))
REAL = [
    path for path in CONFIGS if not path.stem.startswith(("demo_", "real_"))
]  # real_: of real.py, toy size
MARK = re.compile(r'# (paper: .*".+"|ours: \w+|memory)')
PLUMBING = {
    "blocks",
    "rows",
    "output_dir",
    "adapter",
    "logging_steps",
    "report_to",
}  # where things lie and how often they are said


def recipe_of(path):
    """The recipe that the launch command on top of a YAML names."""
    config = f"recipes/configs/{re.escape(path.name)}"
    command = rf"(?:recipes/(\w+)\.py|-m recipes\.tools\.(\w+)) --config {config}"
    return next(filter(None, re.search(command, path.read_text()).groups()))


def parsed(path, recipe=None):
    """{key: value} of a YAML as its own recipe parses it. Without a GPU, bf16 needs use_cpu."""
    recipe = recipe or recipe_of(path)
    sys.path.insert(0, str(ROOT / "recipes"))
    try:
        name = "recipes.tools.mixture_study" if recipe == "mixture_study" else recipe
        parser = importlib.import_module(name).make_parser()
    finally:
        sys.path.pop(0)
    cpu = [] if recipe in ("merge_adapter", "mixture_study") else ["--use_cpu", "true"]
    parts = parser.parse_args_and_config(["--config", str(path), *cpu])
    return {key: value for part in parts for key, value in vars(part).items()}


@pytest.mark.parametrize("path", REAL, ids=lambda p: p.stem)
def test_a_yaml_is_flat_short_marked_and_parses(path, tmp_path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 40 and lines[0].startswith("# ")
    assert re.search(
        r"^# (accelerate launch --config_file accelerate_configs/\w+\.yaml recipes/\w+\.py|"
        r"python recipes/\w+\.py|python -m recipes\.tools\.\w+) --config ",
        lines[1],
    )
    written = yaml.safe_load(path.read_text())
    keys = [line.split(":")[0] for line in lines if not line.startswith("#")]
    assert keys == list(written), "one key a line, none twice"
    nested = {key for key, value in written.items() if isinstance(value, dict)}
    assert nested <= {"model_init_kwargs", "lora"}, "flat, but for what config.json and peft nest"
    unmarked = [
        line
        for line in lines
        if not line.startswith("#") and line.split(":")[0] not in PLUMBING and not MARK.search(line)
    ]
    assert not unmarked, "say where the value comes from"
    values = parsed(path)
    assert set(written) <= set(values)
    for key in (
        "learning_rate",
        "weight_decay",
        "warmup_steps",
        "num_train_epochs",
        "global_batch_tokens",
        "global_batch_size",
        "max_length",
    ):
        assert key not in written or values[key] == written[key]
    copy = tmp_path / path.name
    copy.write_text(path.read_text() + "learning_ratte: 1\n")
    with pytest.raises(ValueError, match="learning_ratte"):
        parsed(copy, recipe_of(path))


@pytest.mark.parametrize("path", REAL, ids=lambda p: p.stem)
@pytest.mark.guarantee("Uploads", "Nothing is uploaded by default, by setting or by environment variable.")
def test_a_yaml_uploads_nothing_and_names_no_machine(path):
    written, text = yaml.safe_load(path.read_text()), path.read_text()
    assert set(written.get("report_to", [])) <= {"tensorboard", "trackio"} and not {
        "push_to_hub",
        "trust_remote_code",
        "use_cpu",
    } & set(written)
    assert not {"gradient_accumulation_steps", "world_size", "deepspeed", "fsdp", "fsdp_config"} & set(
        written
    ), "the machine is the accelerate file"
    assert not re.search(r"(?<![\w.])/(home|scratch|data|mnt|work)\b", text)
    for named in re.findall(
        r"\b(?:recipes|accelerate_configs|data_prep)/[\w/]+\.(?:yaml|py|jinja|slurm)", text
    ):
        assert (ROOT / named).is_file(), f"{path.name}: {named}"


@pytest.mark.parametrize(
    "path",
    [path for path in REAL if recipe_of(path) not in ("merge_adapter", "mixture_study")],
    ids=lambda p: p.stem,
)
def test_the_machine_on_top_can_take_the_step(path):
    """Every launch command divides the step among its ranks, and bf16 weights without a float32 copy
    are never updated without stochastic rounding."""
    machine = load_config_from_file(str(ROOT / re.search(r"--config_file (\S+)", path.read_text()).group(1)))
    values = parsed(path)
    length = (values.get("model_init_kwargs") or {}).get("max_position_embeddings", 4096)
    rows = values.get("global_batch_tokens", 0) // length or values["global_batch_size"]
    shared = machine.parallelism_config.get("parallelism_config_sp_size", 1)
    assert rows % (machine.num_processes // shared) == 0
    adapter = (
        values.get("use_peft") and not values["load_in_4bit"]
    )  # float32; of QLoRA in the type of its base
    if adapter or values["dtype"] == "float32":
        assert getattr(values["optim"], "value", values["optim"]) == "adamw_torch_fused"
    else:
        assert "bf16_stochastic_round=True" in values["optim_args"]


def test_the_chain_of_the_paper_is_closed():
    """What a stage starts from is what the stage before it writes."""
    made = {yaml.safe_load(path.read_text())["output_dir"] for path in REAL}
    for path in REAL:
        written = yaml.safe_load(path.read_text())
        base = written.get("model_name_or_path", written.get("adapter", ""))
        assert base in made or not base.startswith("outputs/"), f"{path.name}: nothing writes {base}"


def test_every_stage_of_the_paper_has_its_yaml():
    names = {path.stem for path in REAL}
    assert names >= {
        "pretrain_13b",
        "pretrain_70b",
        "sft_13b_lora",
        "sft_70b_lora",
        "sft_13b_qlora",
        "sft_13b_full",
        "finetune_task_13b",
        "finetune_task_70b_lora",
        "pretrain_llama31_8b",
        "pretrain_qwen3_8b",
        "sft_llama31_8b_lora",
        "sft_qwen3_8b_lora",
        "extend_13b_16k",
        "extend_13b_qlora_24gb",
        "extend_llama3_8b_64k",
    }


@pytest.mark.parametrize(
    ("path", "positions"),
    [("extend_13b_16k", 4096), ("extend_13b_qlora_24gb", 4096), ("extend_llama3_8b_64k", 8192)],
)
def test_an_extension_passes_its_own_check_of_positions(path, positions):
    """What recipes/checks.py asks before the first step, of a model with the base's positions."""
    values = parsed(ROOT / f"recipes/configs/{path}.yaml")
    checks, length = sys.modules["checks"], values["model_init_kwargs"]["max_position_embeddings"]
    theta = values["model_init_kwargs"]["rope_parameters"]["rope_theta"]
    rope = {"rope_type": "default", "rope_theta": theta}
    config = LlamaConfig(max_position_embeddings=positions, rope_parameters=rope)
    tokenizer = SimpleNamespace(model_max_length=10**30)
    checks.check_positions(path, config, tokenizer, length, values["model_init_kwargs"])
    with pytest.raises(checks.Refused, match=f"has {positions} positions"):
        checks.check_positions(path, config, tokenizer, length, {})
    mixture = ROOT / f"data_prep/mixtures/extend_{length // 1024}k.yaml"
    assert values.get("max_length") == length or yaml.safe_load(mixture.read_text())["block_length"] == length


FAMILIES = {  # the special tokens of the two base models: (BOS, EOS); neither has an unknown token
    "sft_llama31_8b_lora.yaml": ("<|begin_of_text|>", "<|end_of_text|>"),
    "sft_qwen3_8b_lora.yaml": (None, "<|endoftext|>"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_base_model_of_today_learns_to_stop_with_a_token_it_knows(name):
    """The shipped template on a tokenizer with the family's special tokens: each answer ends in a trained
    EOS, padding is another token, and tokens of the family's chat format (untrained
    in its base) do not occur."""
    values, (bos, eos) = parsed(ROOT / "recipes/configs" / name), FAMILIES[name]
    words = ["[INST]", "[/INST]", " ", "Fever", "?", "Yes", ".", "<|eot_id|>", "<|im_end|>"]
    vocabulary = {word: i for i, word in enumerate([*filter(None, (bos,)), eos, values["pad_token"], *words])}
    engine = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    engine.pre_tokenizer = pre_tokenizers.Split(Regex(r"\[/?INST\]|\w+|\S| "), "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=engine, bos_token=bos, eos_token=eos, pad_token=values["pad_token"]
    )
    tokenizer.chat_template = Path(ROOT, values["chat_template_path"]).read_text()
    talk = [{"role": "user", "content": "Fever ?"}, {"role": "assistant", "content": "Yes ."}] * 2
    rendered = tokenizer.apply_chat_template(talk, return_dict=True, return_assistant_tokens_mask=True)
    trained = [i for i, mask in zip(rendered["input_ids"], rendered["assistant_masks"], strict=True) if mask]
    assert (
        trained.count(tokenizer.eos_token_id) == rendered["input_ids"].count(tokenizer.eos_token_id) == 2
        and trained[-1] == tokenizer.eos_token_id
    )
    assert rendered["input_ids"].count(tokenizer.bos_token_id) == (2 if bos else 0)
    assert not {vocabulary["<|eot_id|>"], vocabulary["<|im_end|>"], tokenizer.pad_token_id} & set(
        rendered["input_ids"]
    )
