"""How many images of each kind the parts of a dataset hold: organisms, classes [P2 Fig. 7]."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from trainables.analyses.choose import members, metric_name, open_checked, table
from trainables.analyses.figures import COLORS, COLUMN, GREY, PAGE, canvas, png, style
from trainables.context import Context, Result, StageError
from trainables.settings import parse
from trainables.settings.analyses import DistributionSettings

UNKNOWN = "not known"
PARTS = {
    "annotated": "with masks",
    "labelled": "labelled",
    "pretrain": "for pretraining",
    "train": "training part",
    "evaluation": "evaluation part",
}
Counts = Mapping[str, Mapping[str, int]]  # part -> group -> images


def analyse(spec: Mapping[str, Any], context: Context) -> Result:
    """Count the images of each part by what they show as a whole (`Listing.group_names`), and draw it as bars.

    Args:
        spec: analysis (`DistributionSettings`), data (reader, options), and optionally names (part -> title), note
            (what stands in for the data) and groups (`Listing.group_digest` of what was planned).

    Returns:
        Files distribution.png and distribution.csv (part, group, images, share of the part); the groups are those of
        all parts, the most frequent first, images of no known group last. Metrics images/<part>/<group>.

    Raises:
        StageError: an empty part; the dataset tells no groups; they changed since the plan was made.
        DataError: the dataset is missing or faulty.
    """
    settings = parse(DistributionSettings, spec["analysis"])
    listing, _ = open_checked(spec["data"], context)
    if spec.get("groups", listing.group_digest) != listing.group_digest:
        raise StageError(f"distribution: what the images of {listing.folder} show changed since the plan; run it again")
    names = [name or UNKNOWN for name in listing.group_names]
    if set(names) == {UNKNOWN}:
        raise StageError(f"distribution: {listing.reader} does not tell what its images show; expected labels")
    found: dict[str, Counter[str]] = {
        part: Counter(names[number] for number in members(listing, part)) for part in settings.parts
    }
    total = sum(found.values(), Counter[str]())
    groups = sorted(total, key=lambda name: (name == UNKNOWN, -total[name], name))
    counts = {part: {name: held[name] for name in groups} for part, held in found.items()}
    rows = [(part, name, n, n / sum(held.values())) for part, held in counts.items() for name, n in held.items()]
    titles = [spec.get("names", {}).get(part, PARTS[part]) for part in counts]
    return Result(
        {metric_name("images", part, name): n for part, name, n, _ in rows},
        files={
            "distribution.png": _draw(counts, titles, spec.get("note", "")),
            "distribution.csv": table(("part", "group", "images", "share"), rows),
        },
    )


def _draw(counts: Counts, titles: Sequence[str], note: str) -> bytes:
    """Bars to the right, a part beside the other, each with its number of images and its share."""
    groups = list(next(iter(counts.values())))
    with style():
        width = COLUMN if len(counts) == 1 else PAGE
        figure, row = canvas(width, 0.8 + 0.24 * len(groups), ncols=len(counts), sharey=True, squeeze=False)
        for axes, title, held in zip(row[0], titles, counts.values(), strict=True):
            _draw_part(axes, title, held)
        row[0][0].set_yticks(range(len(groups)), groups)
        row[0][0].invert_yaxis()
        if note:
            figure.supxlabel(note, x=0.0, ha="left", fontsize=7)
        return png(figure)


def _draw_part(axes: Axes, title: str, held: Mapping[str, int]) -> None:
    whole, most = sum(held.values()), max(held.values())
    for y, (name, images) in enumerate(held.items()):
        axes.barh(y, images, height=0.7, color=GREY if name == UNKNOWN else COLORS[0])
        axes.text(images + 0.02 * most, y, f"{images:,} ({100 * images / whole:.1f} %)", va="center", fontsize=7)
    axes.set(title=f"{title}: {whole:,} images", xlabel="images", xlim=(0, 1.5 * most))  # room for the numbers
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
