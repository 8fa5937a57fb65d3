"""What is accepted is honoured: every field of every parser is read by its library or by the recipe, or is
refused by name with the reason. Enumerated from the dataclasses: a new field of TRL or transformers cannot
come in silently."""

import dataclasses
import importlib
import re
from pathlib import Path
from types import SimpleNamespace

import accelerate
import peft
import pytest
import transformers
import trl

from tests.lab import ALIGNMENT, ROOT, SAFEGUARDS

LIBRARIES = {
    "trl": Path(trl.__file__).parent,
    "transformers": Path(transformers.__file__).parent,
    "accelerate": Path(accelerate.__file__).parent,
    "peft": Path(peft.__file__).parent,
}
FILES = {
    "trl": [
        "trainer/sft_trainer.py",
        "trainer/sft_config.py",
        "trainer/callbacks.py",
        "trainer/dpo_trainer.py",
        "trainer/grpo_trainer.py",
        "trainer/grpo_config.py",
        "data_utils.py",
        "trainer/base_config.py",
        "trainer/_base.py",
        "trainer/utils.py",
        "trainer/base_trainer.py",
    ],
    "transformers": [
        "trainer.py",
        "training_args.py",
        "trainer_callback.py",
        "trainer_utils.py",
        "trainer_optimizer.py",
        "trainer_pt_utils.py",
        "trainer_jit_checkpoint.py",
        "integrations/integration_utils.py",
        "integrations/deepspeed.py",
        "integrations/fsdp.py",
        "integrations/liger.py",
        "integrations/neftune.py",
        "debug_utils.py",
    ],
}
REFUSED = {
    "deepspeed": {"zero_optimization": {"stage": 2}},
    "do_predict": True,
    "enable_jit_checkpoint": True,
    "auto_find_batch_size": True,
    "ignore_data_skip": True,
    "local_rank": 3,
    "trust_remote_code": True,
    "train_sampling_strategy": "group_by_length",
    "push_to_hub": True,
    "trackio_space_id": "lab/space",
    "trackio_bucket_id": "lab/bucket",
    "trackio_static_space_id": "lab/static",
}


def sources():
    for library, names in FILES.items():
        for name in names:
            path = LIBRARIES[library] / name
            if path.is_file():
                yield path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def recipes():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "recipes"))
        names = ("pretrain", "sft", "dpo", "grpo", "merge_adapter", "checks")
        yield {name: importlib.import_module(name) for name in names}


@pytest.mark.parametrize("name", ["pretrain", "sft", "dpo", "grpo", "merge_adapter"])
@pytest.mark.guarantee(
    "Recipes", "Every argument that a recipe accepts is read by its library or by the recipe, or refused."
)
def test_every_field_is_read(recipes, name):
    library, ours = (
        "\n".join(sources()),
        "\n".join(
            (ROOT / "recipes" / file).read_text()
            for file in (f"{name}.py", *SAFEGUARDS, *ALIGNMENT, "rewards.py")
        ),
    )
    unread = []
    for kind in recipes[name].make_parser().dataclass_types:
        for field in dataclasses.fields(kind):
            read = rf"\.{field.name}\b|getattr\(\w+, \"{field.name}\"|\"{field.name}\""
            if not re.search(
                rf"(?:args|self|config|trainer|model_args)(?:\.args)?{read}", library
            ) and not re.search(read, ours):
                unread.append(field.name)
    assert unread == [], "accepted, and read by nothing: refuse it by name in checks.without_effect"


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_refused_by_name(recipes, key, tmp_path):
    checks = recipes["checks"]
    arguments = trl.SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    run = SimpleNamespace(world_size=None, allow_upload=False)
    checks.check_launch(run, arguments)
    setattr(arguments, key, REFUSED[key])
    with pytest.raises(checks.Refused, match=f"{key}.*Next: |{key} would send"):
        checks.check_launch(run, arguments)


def test_no_field_is_lost_on_the_way(recipes):
    """TRL's ModelConfig reaches the model: its three fields that sft.py passes on by hand, the others through
    TRL."""
    text = (ROOT / "recipes/sft.py").read_text()
    for other in ("dpo", "grpo"):
        loading = re.search(r"    loading = .*\n.*", text)[0]
        assert loading in (ROOT / f"recipes/{other}.py").read_text(), "the same three fields"
    through_trl = "get_peft_config(named)", "get_quantization_config(named)"
    assert all(call in text for call in through_trl)
    for field in dataclasses.fields(trl.ModelConfig):
        by_hand = f"named.{field.name}" in text
        helper = (LIBRARIES["trl"] / "trainer/utils.py").read_text()
        assert by_hand or f"model_args.{field.name}" in helper, field.name
