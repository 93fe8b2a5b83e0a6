"""What ran where and for how long, on which data and versions, and the MLflow run of each cell."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from orchestrator.passwords import without_userinfo
from orchestrator.record.mlflow_reader import TrackedRun
from orchestrator.results.collected import Collected
from orchestrator.results.labels import axis_label, value_label
from orchestrator.results.layout import digits
from orchestrator.results.references import SCALES

Records = Mapping[str, Mapping[str, Any]]
MOMENT = "%Y-%m-%d %H:%M UTC"
MOST_CELLS = 2000  # in the page; all of them are in cells.csv


@dataclass(frozen=True)
class Share:
    """How much of the work one node did on one device: stages by kind, and their seconds."""

    node: str
    device: str
    kinds: str
    stages: int
    seconds: float


@dataclass(frozen=True)
class StageLine:
    """One stage that cells share, or that draws from them."""

    kind: str
    name: str
    state: str
    seconds: float | None
    node: str
    key: str
    link: str
    run_id: str


@dataclass(frozen=True)
class CellLine:
    """One cell: how it is called, what came out, and where to find it."""

    labels: tuple[str, ...]
    seed: str
    values: tuple[str, ...]
    status: str
    error: str
    seconds: float | None
    key: str
    link: str
    run_id: str


def shares(records: Records) -> list[Share]:
    """The finished work by node and device, the largest part first."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record in records.values():
        groups.setdefault((record.get("node") or "unknown", record.get("device") or "not recorded"), []).append(record)
    found = []
    for (node, device), members in groups.items():
        kinds = Counter(str(record.get("kind", "stage")) for record in members)
        told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        found.append(Share(node, device, told, len(members), sum(float(r.get("seconds") or 0) for r in members)))
    return sorted(found, key=lambda share: -share.seconds)


def span(records: Records) -> tuple[str, str, float] | None:
    """When the first stage began and the last one ended, and the seconds between; None where nothing is finished."""
    times = [(r["started"], r["finished"]) for r in records.values() if r.get("started") and r.get("finished")]
    if not times:
        return None
    began, ended = min(b for b, _ in times), max(e for _, e in times)
    first, last = (datetime.fromisoformat(time).astimezone(UTC) for time in (began, ended))
    return first.strftime(MOMENT), last.strftime(MOMENT), (last - first).total_seconds()


def stage_lines(found: Collected, records: Records, failures: Records, links: Links) -> list[StageLine]:
    """Every stage of the plan that is no cell, in the order of their kinds and names."""
    cells = {cell.get("key") for cell in found.plan["cells"]}
    lines = []
    for key, stage in (found.plan.get("stages") or {}).items():
        if key in cells:
            continue
        record = records.get(key)
        state = "finished" if record else _state(stage, failures.get(key))
        seconds, node = (record.get("seconds"), record.get("node", "")) if record else (None, "")
        lines.append(StageLine(stage["kind"], stage["name"], state, seconds, node, key, *links.of(key)))
    order = ("prepare", "import", "pretrain", "trial", "finetune", "probe", "analysis")
    return sorted(lines, key=lambda s: (order.index(s.kind) if s.kind in order else len(order), s.name))


def _state(stage: Mapping[str, Any], failure: Mapping[str, Any] | None) -> str:
    if failure is not None:
        return f"{failure.get('outcome', 'failed')}: {' '.join(str(failure.get('error') or '').split())}"
    return f"blocked: {stage['blocked']}" if stage.get("blocked") else "not run yet"


class Links:
    """The MLflow run of a key: where MLflow has an address that a browser opens, with a link."""

    def __init__(self, uri: str, runs: Mapping[str, TrackedRun]) -> None:
        self._base = without_userinfo(uri).rstrip("/") if uri.startswith(("http://", "https://")) else ""
        self._runs = runs

    def of(self, key: str) -> tuple[str, str]:
        """Link ("" without one) and run id."""
        run = self._runs.get(key)
        if run is None:
            return "", ""
        there = self._base and run.experiment_id
        return f"{self._base}/#/experiments/{run.experiment_id}/runs/{run.run_id}" if there else "", run.run_id


def cell_lines(found: Collected, records: Records, links: Links) -> tuple[tuple[str, ...], list[CellLine], int]:
    """Headings, a line for each cell, those that are not finished first, and how many more there are."""
    table, plan = found.table, found.plan
    axes = tuple(
        dict.fromkeys([*(a for a in table.index if a != "metric"), *(a for a in table.columns if a != "metric")])
    )
    asked = list(plan["table"]["value"])
    frame = found.cells[found.cells["metric"].isin(asked)]
    columns = {name: frame[name].tolist() for name in (*axes, "seed", "metric", "value", "status", "error", "key")}
    scale = 10.0 ** SCALES.get(table.unit, 0)
    grouped: dict[tuple[Any, ...], list[int]] = {}
    for n, place in enumerate(zip(*(columns[a] for a in axes), columns["seed"], columns["key"], strict=True)):
        grouped.setdefault(place, []).append(n)
    lines = []
    for identity, members in grouped.items():
        *axis_values, seed, key = identity
        by_metric = {columns["metric"][n]: columns["value"][n] for n in members}
        values = tuple(_number(by_metric.get(metric), scale, table.decimals) for metric in asked)
        statuses = [columns["status"][n] for n in members]
        worst = next((s for s in ("failed", "blocked", "missing") if s in statuses), statuses[0])
        error = next((columns["error"][n] for n in members if columns["error"][n]), "")
        labels = tuple(value_label(axis, value) for axis, value in zip(axes, axis_values, strict=True))
        seconds = records.get(key, {}).get("seconds")
        told = "" if seed is None or worst == "constant" else str(seed)
        lines.append(CellLine(labels, told, values, worst, error, seconds, key or "", *links.of(key or "")))
    lines.sort(key=lambda line: line.status in ("succeeded", "constant"))
    return tuple(map(axis_label, axes)), lines[:MOST_CELLS], max(0, len(lines) - MOST_CELLS)


def _number(value: float | None, scale: float, decimals: int) -> str:
    return "" if value is None or value != value else digits(value * scale, decimals + 1, None)


def data_sets(plan: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Reader, its options and the fingerprint of every data set that stages read, each once."""
    found: dict[tuple[str, str, str], None] = {}
    for stage in (plan.get("stages") or {}).values():
        data = stage["spec"].get("data") or {}
        if data.get("reader") and stage.get("fingerprint"):
            options = ", ".join(f"{name} {value}" for name, value in (data.get("options") or {}).items())
            found.setdefault((str(data["reader"]), options, str(stage["fingerprint"])))
    return sorted(found)


def versions(records: Records) -> list[tuple[str, str]]:
    """Versions that results were made with, and those of what made this page."""
    used: dict[str, Counter[str]] = {}
    for record in records.values():
        for name, number in (record.get("versions") or {}).items():
            used.setdefault(name, Counter())[str(number)] += 1
    made = [(f"{name} (stages)", _several(counts)) for name, counts in sorted(used.items())]
    here = [("Python", platform.python_version())]
    for name in ("transfergrid", "ray", "mlflow", "optuna"):
        try:
            here.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return [*made, *((f"{name} (this report)", number) for name, number in here)]


def _several(counts: Counter[str]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{number} ({count} stages)" for number, count in counts.most_common())


def duration(seconds: float | None) -> str:
    """Seconds for people: `12.8 s`, `4 min 10 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    for size, unit, below, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} {int(seconds % size // below)} {smaller}"
    return f"{seconds:.0f} s"
