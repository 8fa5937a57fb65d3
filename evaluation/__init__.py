"""Predictions, scores and reports: generate.py (lm-evaluation-harness), metrics.py and score.py,
report.py."""
