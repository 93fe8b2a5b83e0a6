"""Files of results: each appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from orchestrator.record.shape import is_file_name
from orchestrator.results import ResultsError
from orchestrator.results.collected import Collected
from orchestrator.results.render.comma import cells_csv, table_csv
from orchestrator.results.render.html import html
from orchestrator.results.render.latex import latex
from orchestrator.results.render.markdown import markdown


def table_files(found: Collected) -> dict[str, str]:
    """The cells and the table of a plan in every format, by file name."""
    return {
        "cells.csv": cells_csv(found.cells),
        "table.csv": table_csv(found.table),
        "table.md": markdown(found.table),
        "table.tex": latex(found.table),
        "table.html": html(found.table),
    }


def write_files(folder: Path, texts: Mapping[str, str | bytes]) -> list[Path]:
    """Write texts (or bytes) by name into a folder, which is made.

    Raises:
        ResultsError: the folder cannot be written, or a name is a path or hidden: it would lie elsewhere.
    """
    for name in texts:
        if not is_file_name(name):
            raise ResultsError(f"--out: {folder} takes no file called {name!r}; expected a plain name, as in table.csv")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            temporary = folder / f".{name}.{os.getpid()}"
            try:
                temporary.write_bytes(text if isinstance(text, bytes) else text.encode())
                temporary.replace(folder / name)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ResultsError(
            f"--out: cannot write {folder}: {error.strerror or error}; expected a writable folder"
        ) from error
    return [folder / name for name in texts]
