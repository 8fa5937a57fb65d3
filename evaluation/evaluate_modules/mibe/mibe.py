"""The strict metrics as a module of the `evaluate` library, loaded offline from this folder, with the
repository on PYTHONPATH:

    metric = evaluate.load("./evaluation/evaluate_modules/mibe", "choice")
    metric.compute(predictions=["Answer: C"], references=["C"], choices=["A", "B", "C"])

The second argument is the scoring: choice, labels, span, entities or summary. `choices` are the labels or
entity types, where the scoring has them. The texts are always kept in memory: by default the library writes
them to a file in the user's cache.
"""

import datasets
import evaluate

from evaluation.scoring import metrics

SCORINGS = tuple(scoring for scoring in metrics.NAMES if scoring != "options")


class Mibe(evaluate.Metric):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{**kwargs, "keep_in_memory": True})

    def _info(self):
        if self.config_name not in SCORINGS:
            raise ValueError(
                f"no scoring '{self.config_name}'. Next: evaluate.load(PATH, SCORING) with one of "
                f"{', '.join(SCORINGS)}"
            )
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Accuracy, F1, exact match and ROUGE with strict parsing of the outputs",
            citation="",
            inputs_description="predictions and references: texts; choices: the labels or entity types",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions, references, choices=None):
        """{metric: value}, and the share of predictions without a readable answer as "unparsed"."""
        if self.config_name in ("choice", "labels", "entities") and not choices:
            raise ValueError(f"scoring '{self.config_name}' needs choices=[...]: its labels or entity types")
        rows = [
            {
                "id": str(number),
                "scoring": self.config_name,
                "choices": choices,
                "completion": gold,
                "output": output,
            }
            for number, (output, gold) in enumerate(zip(predictions, references, strict=True))
        ]
        rows = [row | metrics.grade(row) for row in rows]
        values = {name: metrics.value(rows, name) for name in metrics.names(rows)}
        return values | {"unparsed": sum(row["parsed"] is None for row in rows) / len(rows)}
