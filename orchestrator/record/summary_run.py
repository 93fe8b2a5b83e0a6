"""A table as a run of MLflow: files to look at in the UI, the table itself as the run's description."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from orchestrator.record.mlflow_connection import TrackingError, first_line
from orchestrator.record.tracking import PREFIX, Tracker

LONGEST_NOTE = 5000  # characters that MLflow keeps of a tag in every database


def log_summary(
    uri: str,
    experiment: str,
    grid: str,
    plan: str,
    *,
    note: str,
    counts: Mapping[str, int],
    files: Mapping[str, str],
) -> str:
    """Write the run of a grid's table, or bring the one of the same plan up to date. Returns its id.

    It has no key, so nothing takes it for a stage; `tags.transfergrid.kind = 'table'` finds it.

    Args:
        note: Markdown, shown as the run's description; one that is too long is left to the files.
        counts: cells by status, as metrics.
        files: name -> text, as artifacts.

    Raises:
        TrackingError: MLflow cannot be reached, or takes no such run.
    """
    tags = {"kind": "table", "table": grid, "plan": plan, f"grid.{grid}": "true"}
    named = {PREFIX + name: value for name, value in tags.items()}
    if len(note) <= LONGEST_NOTE:
        named["mlflow.note.content"] = note
    try:
        tracker = Tracker(uri, experiment, create=False)
        client, place = tracker._client, tracker._experiment_id
        query = f"tags.`{PREFIX}table` = '{grid}' and tags.`{PREFIX}plan` = '{plan}'"
        there = client.search_runs([place], query, max_results=1)
        run = there[0] if there else client.create_run(place, run_name=f"table {grid} | {plan}", tags=named)
        for name, value in named.items() if there else ():
            client.set_tag(run.info.run_id, name, value)
        for name, count in counts.items():
            client.log_metric(run.info.run_id, name, count)
        with tempfile.TemporaryDirectory(prefix="transfergrid-") as folder:
            for name, text in files.items():
                (Path(folder) / name).write_text(text, encoding="utf-8")
            client.log_artifacts(run.info.run_id, folder)
        client.set_terminated(run.info.run_id, status="FINISHED")
    except TrackingError:
        raise
    except Exception as error:  # MLflow and its backends raise many kinds
        raise TrackingError(f"MLflow at {uri}: it takes no summary run: {first_line(error)}") from error
    return str(run.info.run_id)
