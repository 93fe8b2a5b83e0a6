"""Findings as files: claims.csv, claims.md, claims.json, and the short list on the terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.results.claims.evaluate import Finding, PartResult, Verdict
from orchestrator.results.statistics.paired import HOLM, HOLM_SOURCE

COLUMNS = (
    "id", "statement", "source", "test", "margin", "alpha", "verdict", "reason", "effect", "low", "high", "level",
    "unit", "n", "p", "p_holm", "stated", "parts", "method", "method_source", "published_verdict", "published_reason",
    "published_effect", "published_low", "published_high", "published_n", "published_p", "published_stated",
    "published_parts", "published_method", "note",
)  # fmt: skip
WRONG_SIDE = "not as stated"
MARKS = {"holds": "✓", "fails": "✗", "undecided": "?", "not testable": "—"}


@dataclass(frozen=True)
class ClaimsTold:
    """Findings as `collect` shows them: files by name, lines for the terminal, JSON values, and warnings."""

    files: Mapping[str, str]
    lines: Sequence[str]
    record: Sequence[Mapping[str, Any]]
    warnings: Sequence[str]


def told(findings: Sequence[Finding], plan: Mapping[str, Any], warnings: Sequence[str] = ()) -> ClaimsTold:
    """Everything that is written and printed of findings."""
    texts = {"csv": claims_csv(findings), "md": claims_md(findings, plan), "json": claims_json(findings)}
    files = {f"claims.{kind}": text for kind, text in texts.items()}
    return ClaimsTold(files, short_list(findings), claims_record(findings), warnings)


def claims_csv(findings: Sequence[Finding]) -> str:
    """One row for each claim."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for finding in findings:
        row = _row(finding)
        writer.writerow([_plain(row[column]) for column in COLUMNS])
    return out.getvalue()


def claims_json(findings: Sequence[Finding]) -> str:
    """The same with all parts, as a JSON list."""
    return json.dumps(claims_record(findings), ensure_ascii=False, indent=2) + "\n"


def claims_record(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """The findings as JSON values."""
    return [
        {
            **finding.claim.model_dump(mode="json", exclude_none=True),
            "verdict": asdict(finding.ours),
            "published": asdict(finding.published),
            "p_holm": finding.p_holm,
        }
        for finding in findings
    ]


def claims_md(findings: Sequence[Finding], plan: Mapping[str, Any]) -> str:
    """A table of the verdicts, then each claim with its numbers and how they were found."""
    lines = [f"# Claims of {plan['title']}", "", *(f"> {text}\n" for text in _warnings(plan))]
    lines += ["| | Claim | Verdict | Effect | n | p | Published values |", "|---|---|---|---|---|---|---|"]
    for finding in findings:
        ours = finding.ours
        cells = (
            finding.claim.id, _cell(finding.claim.statement), f"{MARKS[ours.answer]} {ours.answer}", effect(ours),
            str(ours.n or ""), _p(ours.p), in_short(finding.published),
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    verdicts = [verdict for finding in findings for verdict in (finding.ours, finding.published)]
    numbers = {source: n for n, source in enumerate(dict.fromkeys(v.source for v in verdicts if v.source), start=1)}
    for finding in findings:
        lines += ["", f"## {finding.claim.id}: {finding.claim.statement}", "", *_details(finding, numbers)]
    lines += ["", "## Methods", "", *(f"{number}. {source}." for source, number in numbers.items())]
    if any(finding.p_holm is not None for finding in findings):
        lines += ["", f"p (Holm): {HOLM} over all claims of this grid [{HOLM_SOURCE}]. Verdicts use p itself."]
    return "\n".join(lines) + "\n"


def short_list(findings: Sequence[Finding]) -> list[str]:
    """Two lines for each claim after one with their counts."""
    counts = {word: sum(f.ours.answer == word for f in findings) for word in MARKS}
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    lines = [f"{len(findings)} claims: {told}"]
    for finding in findings:
        ours = finding.ours
        why = f" ({ours.reason})" if ours.answer == "not testable" else ""
        number = f"; {effect(ours)}" if ours.effect is not None else ""
        lines.append(f"  {MARKS[ours.answer]} {finding.claim.id} {ours.answer}{why}{number}")
        lines.append(f"      {finding.claim.statement} Published: {in_short(finding.published)}.")
    return lines


def effect(verdict: Verdict) -> str:
    """`0.5 [-0.2, 1.1] points`."""
    if verdict.effect is None:
        return ""
    inside = "" if verdict.low is None or verdict.high is None else f" [{_n(verdict.low)}, {_n(verdict.high)}]"
    unit = f" {verdict.unit}" if verdict.unit not in ("", "fraction") else ""
    return f"{_n(verdict.effect)}{inside}{unit}"


def in_short(verdict: Verdict) -> str:
    """A verdict with what its effects alone say: `fails, 1 of 6 as stated`."""
    if not verdict.parts:
        return f"{verdict.answer}: {verdict.reason}" if verdict.reason else verdict.answer
    known = [part for part in verdict.parts if part.stated is not None]
    as_said = f"{verdict.stated} of {len(known)} as stated"
    if len(known) == 1:
        as_said = "as stated" if verdict.stated else WRONG_SIDE
    why = f" ({verdict.reason})" if verdict.answer == "not testable" and verdict.reason else ""
    return f"{verdict.answer}{why}, {as_said}"


def _details(finding: Finding, numbers: Mapping[str, int]) -> Iterator[str]:
    claim, ours, published = finding.claim, finding.ours, finding.published
    margin = "" if claim.test == "rank" else f", margin {_n(claim.margin)}"
    yield f"Source: {claim.source}. Test: {claim.test}{margin}, alpha {_n(claim.alpha)}."
    if claim.note:
        yield f"\nNote: {claim.note}"
    for name, verdict in (("Ours", ours), ("Published", published)):
        yield f"\n**{name}: {in_short(verdict)}.** {effect(verdict)}".rstrip()
        if verdict.p is not None:
            holm = "" if name != "Ours" or finding.p_holm is None else f", p (Holm) {_p(finding.p_holm)}"
            yield f"p {_p(verdict.p)}{holm}, n {verdict.n}."
        if verdict.method:
            level = "" if verdict.level is None else f", {100 * verdict.level:g} % interval"
            yield f"Method: {verdict.method}{level} [{numbers[verdict.source]}]."
        if verdict.reason and verdict.answer != "not testable":
            yield f"{verdict.reason[0].upper()}{verdict.reason[1:]}."
        if len(verdict.parts) > 1:
            yield ""
            yield from (_part(part, verdict.answer != "not testable") for part in verdict.parts)


def _part(part: PartResult, noted: bool) -> str:
    inside = "" if part.low is None or part.high is None else f" [{_n(part.low)}, {_n(part.high)}]"
    p = "" if part.p is None else f", p {_p(part.p)}"
    look = f", look {part.look}" if part.look else ""
    said = f", {WRONG_SIDE}" if part.stated is False else ""
    note = f" ({part.note})" if part.note and noted else ""
    return f"- {part.label}: {'' if part.effect is None else _n(part.effect)}{inside}{p}{look}{said}{note}"


def _warnings(plan: Mapping[str, Any]) -> Iterator[str]:
    if plan["profile"] != "paper":
        yield f"{plan['profile']} profile: sizes and budgets are not the paper's; verdicts at this size prove nothing."
    used = [f"{used} for {asked}" for asked, used in (plan.get("stand_ins") or {}).items() if asked != used]
    if used:
        yield f"Stand-ins: {', '.join(used)}."
    if plan.get("only"):
        yield f"Restricted to {', '.join(map(str, plan['only']))}: claims are about what is left."


def _row(finding: Finding) -> dict[str, Any]:
    claim, ours, published = finding.claim, finding.ours, finding.published
    return {
        **{name: getattr(claim, name) for name in ("id", "statement", "source", "test", "margin", "alpha", "note")},
        **{
            name: getattr(ours, name)
            for name in ("reason", "effect", "low", "high", "level", "unit", "n", "p", "method")
        },
        "verdict": ours.answer,
        "p_holm": finding.p_holm,
        "stated": ours.stated,
        "parts": len(ours.parts),
        "method_source": ours.source,
        "published_verdict": published.answer,
        "published_stated": published.stated,
        "published_parts": len(published.parts),
        **{
            f"published_{name}": getattr(published, name)
            for name in ("reason", "effect", "low", "high", "n", "p", "method")
        },
    }


def _plain(value: Any) -> Any:
    return "" if value is None else f"{value:.10g}" if isinstance(value, float) else value


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _n(value: float) -> str:
    return f"{value:.3g}"


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}" if value >= 0.001 else "< 0.001"
