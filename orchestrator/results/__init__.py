"""From finished cells to a table: tidy rows, groups with mean and std, the published values, and their rendering.

cells.py       plan + records of the store -> one row per cell and metric
references.py  published values and which group each belongs to
table.py       groups over seeds with mean, std, counts: the one table model
layout.py      the table model arranged as the grid says: rows, columns, labels, bold
notes.py       what stands under the table
render/        markdown, LaTeX, CSV, terminal
"""

from __future__ import annotations


class ResultsError(Exception):
    """The results cannot be shown as asked. Its text is one message for the user."""
