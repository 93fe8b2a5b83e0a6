"""What a grid says of an analysis: its dials, and by kind the data, models and cells that it draws from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import Field, create_model, model_validator

from orchestrator.grid.schema import Fraction, Grid, Model, Seed, Selections
from orchestrator.grid.sections import described, together
from orchestrator.grid.source import Path_
from trainables.settings import analyses as settings
from trainables.settings.analyses import ANALYSIS_SETTINGS

Names = dict[str, str]


class Start(Model):
    """The network that a pretext trained on a data set. `network`: as in a row."""

    pretext: str
    pretext_data: str
    network: dict[str, Any] = Field(default_factory=dict)


class Named(Model):
    """A model of a figure: as `Start`; without a pretext, a network with random weights."""

    name: str
    pretext: str | None = None
    pretext_data: str | None = None
    network: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _both_or_none(self) -> Named:
        if (self.pretext is None) != (self.pretext_data is None):
            lacking = "pretext_data" if self.pretext else "pretext"
            raise ValueError(f"a trained model has a pretext and its data; add `{lacking}:`, or leave both out")
        return self


class CurvesPanel(Model):
    """The curves of some cells in one part of the figure."""

    title: str
    cells: Selections


class SamplesSource(Model):
    """A panel's pictures: of a data set, or of what is prepared for a pretext (car patches)."""

    data: str | None = None
    pretext: str | None = None
    pretext_data: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> SamplesSource:
        prepared = self.pretext is not None and self.pretext_data is not None
        if (self.data is not None) == prepared or (self.pretext is None) != (self.pretext_data is None):
            raise ValueError("expected `data:`, or `pretext:` and `pretext_data:` of a pretext with `prepare:`")
        return self


class PredictionsSource(Model):
    """A panel's models: the networks of some cells; or those of pretexts, on a data set."""

    cells: Selections | None = None
    data: str | None = None
    models: Annotated[list[Named], Field(min_length=1)] | None = None
    fraction: Fraction | None = None

    @model_validator(mode="after")
    def _one_source(self) -> PredictionsSource:
        if (self.cells is None) == (self.data is None) or (self.data is None) != (self.models is None):
            raise ValueError("expected `cells:`, or `data:` and `models:`")
        if self.cells is not None and self.fraction is not None:
            raise ValueError("`fraction:` goes with `data:`; cells have their own")
        return self


def _with_dials(base: type[Model], cls: type, *less: str) -> type[Model]:
    """`base` with the dials of a settings class beside its own keys."""
    dials = {name: dial for name, dial in described(cls).items() if name not in less}
    return cast("type[Model]", create_model(cls.__name__, __base__=base, __validators__=together(cls), **dials))


SamplesPanel = _with_dials(SamplesSource, settings.SamplesPanel, "note")
PredictionsPanel = _with_dials(PredictionsSource, settings.PredictionsPanel, "models", "fraction", "n_train", "note")


class Analysis(Model):
    """An analysis of any kind. `seed`: of what is drawn at random (which images); cells have their own."""

    kind: str
    seed: Seed = 0


class CKA(Analysis):
    """Encoders on a data set."""

    data: str
    models: Annotated[list[Named], Field(min_length=2)]


class GradCAM(Analysis):
    """A classifier on the data that it was trained for."""

    model: Start


class Curves(Analysis):
    """Cells in panels; without any, those of this grid, a panel for each data set and fraction.

    `names`: how pretexts' data and models are called in the figure.
    """

    panels: list[CurvesPanel] = Field(default_factory=list)
    names: Names = Field(default_factory=dict)


class Targets(Analysis):
    """Pictures of a data set, and what a ConRec model answers to them."""

    data: str
    model: Start | None = None


class Predictions(Analysis):
    """Panels of predictions; `names` as of curves."""

    panels: Annotated[list[PredictionsPanel], Field(min_length=1)]  # type: ignore[valid-type]
    names: Names = Field(default_factory=dict)


class Samples(Analysis):
    """Panels of pictures."""

    panels: Annotated[list[SamplesPanel], Field(min_length=1)]  # type: ignore[valid-type]


class OfProbes(Analysis):
    """Probes of one data set; `names` as of curves."""

    cells: Selections
    names: Names = Field(default_factory=dict)


class Distribution(Analysis):
    """The images of a data set by what they show. `names`: how the parts are called in the figure."""

    data: str
    names: dict[settings.Part, str] = Field(default_factory=dict)


_BASES: dict[str, type[Analysis]] = {
    "cka": CKA,
    "gradcam": GradCAM,
    "curves": Curves,
    "targets": Targets,
    "predictions": Predictions,
    "samples": Samples,
    "confusion": OfProbes,
    "cam": OfProbes,
    "distribution": Distribution,
}
ANALYSES: dict[str, type[Model]] = {
    kind: _with_dials(base, ANALYSIS_SETTINGS[kind], "kind") for kind, base in _BASES.items()
}
WEIGHTS_OF_CELLS = frozenset({"predictions"})  # kinds that need a finetuned network whole


def analysis_of(entry: Mapping[str, Any]) -> Any:
    """The checked form of an entry of `analyses:`. Raises ValidationError."""
    return ANALYSES[entry["kind"]].model_validate(dict(entry))


def dials_of(analysis: Any) -> dict[str, Any]:
    """The kind's own settings, complete, as JSON values."""
    names = ANALYSIS_SETTINGS[analysis.kind].__dataclass_fields__
    return {name: value for name, value in analysis.model_dump(mode="json").items() if name in names}


@dataclass(frozen=True)
class Asked:
    """A name in an analysis and the place where it stands."""

    path: Path_
    value: Any


def selections_in(analysis: Any, path: Path_) -> Iterator[Asked]:
    """Every `Cells` of an analysis."""
    groups = [((*path, "cells"), getattr(analysis, "cells", None))]
    for number, panel in enumerate(getattr(analysis, "panels", ())):
        groups.append(((*path, "panels", number, "cells"), getattr(panel, "cells", None)))
    for place, cells in groups:
        yield from (Asked((*place, number), selection) for number, selection in enumerate(cells or ()))


def datasets_in(analysis: Any, path: Path_) -> Iterator[Asked]:
    """Every data set that an analysis itself reads; those of its models and cells aside."""
    for place, part in _parts(analysis, path):
        if getattr(part, "data", None) is not None:
            yield Asked((*place, "data"), part.data)


def models_in(analysis: Any, path: Path_) -> Iterator[Asked]:
    """Everything that names a pretext: models, and panels of prepared data."""
    for place, part in _parts(analysis, path):
        for number, model in enumerate(getattr(part, "models", None) or ()):
            yield Asked((*place, "models", number), model)
        if getattr(part, "model", None) is not None:
            yield Asked((*place, "model"), part.model)
        if getattr(part, "pretext", None) is not None:
            yield Asked(place, part)


def _parts(analysis: Any, path: Path_) -> Iterator[tuple[Path_, Any]]:
    yield path, analysis
    yield from (((*path, "panels", number), panel) for number, panel in enumerate(getattr(analysis, "panels", ())))


def all_analyses(grid: Grid) -> dict[str, Any]:
    """The grid's analyses by name, checked before."""
    return {name: analysis_of(entry) for name, entry in grid.analyses.items()}
