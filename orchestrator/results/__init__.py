"""From finished cells to a table: tidy rows, groups with mean and std, the published values, and their rendering.

collected.py   a plan of a store with its results: what every view starts from
cells.py       plan + records of the store -> one row per cell and metric
references.py  published values and which group each belongs to
table.py       groups over seeds with mean, std, counts: the one table model
layout.py      the table model arranged as the grid says: rows, columns, labels, bold, printed digits
notes.py       what stands under the table
pages.py       a sheet with its title and notes: what each format prints
render/        Markdown, LaTeX, CSV, HTML, terminal; templates and style sheet of the pages
comparison.py  several sets of results: matched rows, paired differences, why versions differ (comparison_pages.py)
overall.py     rows over all columns, every two rows compared, intervals of each cell (overall_pages.py)
statistics/    of small numbers of seeds
claims/        the paper's sentences as tests
labels.py      how ids are printed
figures.py     the files of analyses
report/        the self-contained page
written.py     files, whole or not at all
"""

from __future__ import annotations


class ResultsError(Exception):
    """The results cannot be shown as asked. Its text is one message for the user."""
