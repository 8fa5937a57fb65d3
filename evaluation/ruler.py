"""RULER's generated tasks (Hsieh et al. 2024), as lm-evaluation-harness defines, asks and scores them.

    python -m evaluation.long_context MODEL --ruler niah_single_1,ruler_vt --lengths 4096,8192 --out DIR

Ours: the lengths, how many of its 500 examples, an interval, and that nothing is fetched: the tokenizer comes
without remote code, which the harness would run. Its other tasks (essays, SQuAD, HotpotQA) download texts and
are not offered. Needs wonderwords, which is not pinned here. The six were run on SmolLM2-135M-Instruct at
1,024 tokens (RESULTS.md); ruler_vt may seek for minutes with a tokenizer of few words.
"""

import importlib.util
from pathlib import Path
from unittest import mock

import numpy as np

from data_prep.schema import BadInput
from evaluation.reporting.intervals import with_width
from evaluation.scoring import metrics

TASKS = ("niah_single_1", "niah_multikey_2", "niah_multikey_3", "ruler_vt", "ruler_cwe", "ruler_fwe")
SHORTEST = 1024  # below, the harness seeks without end for a text that fits


def check(tasks: list[str], lengths: list[int]) -> None:
    """BadInput for a task that is not generated, a length too short, a package that is missing."""
    if unknown := [task for task in tasks if task not in TASKS]:
        raise BadInput(f"--ruler: no generated task '{unknown[0]}'. Next: some of {', '.join(TASKS)}")
    if tasks and min(lengths, default=0) < SHORTEST:
        raise BadInput(
            f"--lengths {lengths[0] if lengths else 'none'}: RULER's answers need room. Next: from {SHORTEST}"
        )
    absent = [name for name in ("wonderwords", "nltk", "scipy") if not importlib.util.find_spec(name)]
    if tasks and absent:
        raise BadInput(f"--ruler: its definition needs {absent[0]}. Next: pip install {' '.join(absent)}")


def ask(model, tokenizer, tasks: list[str], lengths: list[int], limit: int) -> list[dict]:
    """[{"task", "length", "asked", "value", "low", "high"}]: the share of the wanted strings in the answer to
    the first `limit` examples."""
    if not tasks:
        return []
    import lm_eval
    import nltk
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks.ruler.common_utils import aggregate_metrics
    from transformers import AutoTokenizer

    folder = str(Path(lm_eval.__file__).parent / "tasks/ruler")
    lm = HFLM(pretrained=model, tokenizer=tokenizer, max_length=lengths[-1], batch_size=1)
    given = mock.patch.object(AutoTokenizer, "from_pretrained", lambda *_, **__: tokenizer)
    offline = mock.patch.object(nltk, "download", lambda *_, **__: False)
    found = []
    for length in lengths:
        with given, offline:
            facts = {"max_seq_lengths": [length], "tokenizer": f"given {id(tokenizer)}"}
            loaded = TaskManager(include_path=folder, include_defaults=False, metadata=facts).load(tasks)
        for one in loaded["tasks"].values():  # the harness lists the metric of each usual length
            one._metric_fn_list.setdefault(str(length), None)
            one._aggregation_list.setdefault(str(length), aggregate_metrics)
            one._higher_is_better.setdefault(str(length), True)
        tables = {"tasks": loaded["tasks"], "groups": {}}
        samples = lm_eval.evaluate(lm=lm, task_dict=tables, limit=limit, bootstrap_iters=0, log_samples=True)
        for task, rows in samples["samples"].items():
            values = np.array([[row[str(length)]] for row in rows], dtype=float)
            drawn = metrics.draws(values, lambda total, n: total[..., 0] / n)
            measured = with_width(metrics.estimate(float(values.mean()), drawn), len(values))
            found.append({"task": task, "length": length, "asked": len(values), **measured})
    return found
