"""The page: everything that is known of a grid's results, in one file that asks for nothing."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from markupsafe import Markup

from orchestrator.passwords import without_passwords
from orchestrator.record.cell_reader import read_results
from orchestrator.record.mlflow_connection import TrackingError
from orchestrator.record.mlflow_reader import TrackedRun, read_runs
from orchestrator.results.collected import Collected
from orchestrator.results.comparison_pages import p_text
from orchestrator.results.labels import value_label
from orchestrator.results.layout import MINUS
from orchestrator.results.notes import departures
from orchestrator.results.overall import overall
from orchestrator.results.overall_pages import caution, overall_pages
from orchestrator.results.pages import Page
from orchestrator.results.render.html import environment, html_table, style
from orchestrator.results.report import curves, pictures, runs, studies
from orchestrator.results.report.curves import Legend
from orchestrator.results.report.glance import glance
from orchestrator.results.written import table_files

MOST_TAKEN = 3_000_000  # bytes of a file that travels inside the page
MOST_UNFINISHED = 20
OTHER_ANSWERS = {"fails": "fail", "undecided": "undecided", "not testable": "not testable"}


@dataclass(frozen=True)
class Fact:
    """A number at the top of the page."""

    name: str
    value: str
    more: str = ""


@dataclass(frozen=True)
class File:
    """A file inside the page, to be saved."""

    name: str
    source: str


@dataclass(frozen=True)
class ClaimLine:
    """A claim for its table."""

    id: str
    statement: str
    source: str
    word: str
    verdict: str
    reason: str
    effect: str
    n: str
    p: str
    published: str
    published_effect: str = ""
    note: str = ""


def build(
    found: Collected, uri: str, experiment: str, findings: Sequence[Any] = (), comparison: Page | None = None
) -> str:
    """The report of one plan.

    Args:
        uri, experiment: MLflow, for the run of each stage.
        findings: of the grid's claims, as `claims.read` gives them.
        comparison: with other sets of results.
    """
    plan = found.plan
    records, failures = read_results(found.store, dict.fromkeys([*found.commits, *(plan.get("stages") or {})]))
    links = runs.Links(uri, _all_runs(found, uri, experiment))
    panels, legends = curves.finetuning(found.store, found.table, records)
    losses = curves.pretraining(found.store, plan, records)
    shown = pictures.pictures(found.store, plan)
    tuned = studies.studies(found.store, plan)
    axes, cells, more = runs.cell_lines(found, records, links)
    stages = runs.stage_lines(found, records, failures, links)
    context = {
        "facts": _facts(found, records, findings),
        "cautions": [*departures(found.table), *map(without_passwords, found.warnings)],
        "result": _result(found),
        "glance": glance(found.table),
        "downloads": _downloads(found) if plan["cells"] else [],
        "comparison": html_table(comparison, "comparison-caption") if comparison else "",
        "overall": _overall(found),
        "claims": [_claim(finding) for finding in findings],
        "methods": _methods(findings),
        "curves": panels,
        "legends": legends,
        "pretraining": losses,
        "losses": [Legend("training", 0, False), Legend("validation", 1, False)],
        "study_legend": [Legend("trial", 0, False), Legend("best so far", 1, False)],
        "pictures": shown,
        "studies": tuned,
        "gaps": sum(found.counts[status] for status in ("failed", "blocked", "missing")),
        "causes": found.table.causes,
        "unfinished": [s for s in stages if s.state != "finished" and s.kind != "trial"][:MOST_UNFINISHED],
        "stages": stages,
        "shares": runs.shares(records),
        "times": runs.span(records),
        "axes": axes,
        "cells": cells,
        "more_cells": more,
        "metrics": [value_label("metric", metric) for metric in plan["table"]["value"]],
        "origin": _origin(found, uri, experiment),
        "data": runs.data_sets(plan),
        "versions": runs.versions(records),
    }
    return _render(found, context)


def _render(found: Collected, context: Mapping[str, Any]) -> str:
    sections = [
        ("results", "Results", context["result"]),
        ("comparison", "Comparison", context["comparison"]),
        ("claims", "Claims", context["claims"]),
        ("overall", "Rows compared", context["overall"]),
        ("curves", "Curves", context["curves"] or context["pretraining"]),
        ("figures", "Figures", context["pictures"]),
        ("studies", "Studies", context["studies"]),
        ("missing", "What is missing", True),
        ("runs", "What ran where", True),
        ("made", "How it was made", True),
    ]
    page = environment().get_template("page.html")
    return page.render(
        title=str(found.plan.get("title") or found.plan["grid"]),
        plan={**found.plan, "command": without_passwords(str(found.plan.get("command") or ""))},
        style=style(),
        spoken=runs.duration,
        state=found.state,
        sections=[{"id": identifier, "title": title} for identifier, title, there in sections if there],
        made_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        store=without_passwords(found.store.uri),
        **context,
    )


def _all_runs(found: Collected, uri: str, experiment: str) -> Mapping[str, TrackedRun]:
    """The runs of cells, and of the stages below them."""
    keys = set(found.plan.get("stages") or {}) - set(found.runs)
    if not found.runs or not keys:
        return found.runs
    try:
        return {**read_runs(uri, experiment, keys, metrics=False), **found.runs}
    except TrackingError:
        return found.runs


def _facts(found: Collected, records: runs.Records, findings: Sequence[Any]) -> list[Fact]:
    counts, table = found.counts, found.table
    there = counts["succeeded"] + counts["constant"]
    facts = [Fact("cells have a result", f"{there}", f"of {counts['cells']}")] if counts["cells"] else []
    gaps = ", ".join(f"{counts[status]} {status}" for status in ("failed", "blocked", "missing") if counts[status])
    facts += [Fact("cells without one", str(counts["cells"] - there), gaps)] if gaps else []
    seeds = sorted({group.n_asked for group in table.groups if not group.constant and group.n_asked})
    if seeds:
        facts.append(Fact("seeds", str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"))
    if findings:
        answers = Counter(finding.ours.answer for finding in findings)
        others = ", ".join(f"{answers[word]} {told}" for word, told in OTHER_ANSWERS.items() if answers[word])
        facts.append(
            Fact("claims hold", str(answers["holds"]), f"of {len(findings)}" + (f", {others}" if others else ""))
        )
    seconds = sum(float(record.get("seconds") or 0) for record in records.values())
    nodes = len({record.get("node") for record in records.values()})
    if records:
        facts.append(Fact("device time", runs.duration(seconds), f"on {nodes} {'node' if nodes == 1 else 'nodes'}"))
        trained = sum(record.get("kind") in ("pretrain", "trial") for record in records.values())
        facts += [Fact("pretrainings", str(trained), "each trained once")] if trained else []
    return facts


def _downloads(found: Collected) -> list[File]:
    types = {"tex": "application/x-tex", "csv": "text/csv", "md": "text/markdown", "html": "text/html"}
    files = []
    for name, text in table_files(found).items():
        kind, data = types[name.rpartition(".")[2]], text.encode()
        if kind != "text/html" and len(data) <= MOST_TAKEN:
            files.append(File(name, f"data:{kind};charset=utf-8;base64,{b64encode(data).decode()}"))
    return files


def _result(found: Collected) -> Markup | str:
    """The table; "" for a grid of figures only, which has none."""
    if not found.plan["cells"]:
        return ""
    return html_table(found.table, "result-caption", without=list(departures(found.table)))


def _overall(found: Collected) -> tuple[Markup, Markup, int] | None:
    """The rows over all columns, every two rows compared, and the number of pairs; None below two rows with values."""
    told = overall(found)
    pages = overall_pages(found, told)
    if pages is None:
        return None
    told_above = list(departures(found.table))
    rows = html_table(pages[0], "rows-caption", without=[*told_above, *caution(told)])
    return rows, html_table(pages[1], "pairs-caption", without=told_above), len(told.pairs)


def _claim(finding: Any) -> ClaimLine:
    from orchestrator.results.claims.written import effect, in_short

    claim, ours = finding.claim, finding.ours
    return ClaimLine(
        claim.id, claim.statement, claim.source, ours.answer.replace(" ", "-"), ours.answer, ours.reason,
        effect(ours).replace("-", MINUS), str(ours.n or ""), p_text(ours.p), in_short(finding.published),
        effect(finding.published).replace("-", MINUS), claim.note or "",
    )  # fmt: skip


def _methods(findings: Sequence[Any]) -> list[str]:
    """Each statistical method once, with all its sources."""
    told: dict[str, dict[str, None]] = {}
    for verdict in chain.from_iterable((finding.ours, finding.published) for finding in findings):
        if verdict.method:
            told.setdefault(verdict.method, {}).update(dict.fromkeys(verdict.source.split("; ")))
    return [f"{method[:1].upper()}{method[1:]}: {'; '.join(sources)}." for method, sources in told.items()]


def _origin(found: Collected, uri: str, experiment: str) -> list[tuple[str, str]]:
    plan = found.plan
    told = {
        "Grid file": plan.get("source"),
        "Planned": plan.get("created"),
        "Profile": plan.get("profile"),
        "Settings by hand": ", ".join(map(str, plan.get("overrides") or [])),
        "Restricted to": ", ".join(map(str, plan.get("only") or [])),
        "Data root": plan.get("data_root"),
        "Store": found.store.uri,
        "MLflow": f"{uri}, experiment {experiment}",
    }
    return [(name, without_passwords(str(value))) for name, value in told.items() if value]
