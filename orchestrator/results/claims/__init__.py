"""Claims of a grid on its results and on the published values.

facts.py      what there is to test: groups of cells with a value for each seed, published means, curves, analyses
contrasts.py  a claim as weighted sums of groups, one for each of its parts
evaluate.py   the verdicts
written.py    claims.csv, claims.md, JSON and the short list
"""

from __future__ import annotations

from orchestrator.results.claims.evaluate import Finding, Verdict, evaluate

__all__ = ["Finding", "Verdict", "evaluate"]
