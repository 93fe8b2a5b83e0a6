"""The shape of a grid. Sections of stage settings are the dataclasses of `trainables.settings`, checked strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    create_model,
    model_validator,
)

from trainables import settings
from trainables.settings.datasets import PREPARE_SETTINGS
from trainables.settings.networks import NETWORK_SETTINGS

DEFAULT_NETWORK = "conrec-unet"
Scenario = Literal["random-init", "cls-enc", "seg-enc-dec", "seg-enc", "probe", "constant"]
NeedsPretext = frozenset({"cls-enc", "seg-enc-dec", "seg-enc"})


def _no_bool(value: Any) -> Any:
    """Python takes `true` for 1; no user means that."""
    if isinstance(value, bool):
        raise ValueError(f"expected a number, but got {str(value).lower()}")
    return value


def _once(values: Any) -> Any:
    twice = [v for v in values or [] if (values or []).count(v) > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} stands here twice; keep one")
    return values


def _checked(hint: Any) -> Any:
    """A field's type, with the checks that every field of that type gets."""
    if hint in (int, float, int | None, float | None):
        return Annotated[hint, BeforeValidator(_no_bool)]
    if get_origin(hint) is tuple and get_origin(get_args(hint)[0]) is Literal:  # a choice of several
        return Annotated[hint, Field(min_length=1), AfterValidator(_once)]
    return hint


def _strict(cls: type) -> type[BaseModel]:
    """A pydantic model of a settings dataclass; the limits stand in the metadata of its fields."""
    hints = get_type_hints(cls)
    described: dict[str, Any] = {}
    for dial in fields(cls):
        default = (
            {"default": dial.default} if dial.default is not MISSING else {"default_factory": dial.default_factory}
        )
        described[dial.name] = (_checked(hints[dial.name]), Field(**default, **dial.metadata))
    config = ConfigDict(extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)
    return create_model(cls.__name__, __config__=config, **described)


_CHECKS: dict[type, type[BaseModel]] = {
    cls: _strict(cls)
    for cls in (
        *settings.SECTIONS.values(),
        *settings.PRETEXT_SETTINGS.values(),
        *settings.DATASET_OPTIONS.values(),
        *NETWORK_SETTINGS.values(),
        *PREPARE_SETTINGS.values(),
    )
}


def check_section(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The complete section as JSON values, defaults filled in. Raises pydantic's ValidationError."""
    return _CHECKS[cls].model_validate(dict(values)).model_dump(mode="json")


class Model(BaseModel):
    """Base of all grid models: unknown keys are errors, objects do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Whole = Annotated[int, BeforeValidator(_no_bool)]
Number = Annotated[float, BeforeValidator(_no_bool)]
Fraction = Annotated[Number, Field(gt=0, le=1)]
Seed = Annotated[Whole, Field(ge=0)]
Seeds = Annotated[list[Seed], Field(min_length=1), AfterValidator(_once)]


# Of a pretext's entry in a grid, what is no dial of the method itself.
PRETEXT_SECTIONS = ("pretrain", "tune", "prepare")


class Row(Model):
    """One row of the table: how a network is initialised, and from what.

    A `probe` row may have a pretext; without one its encoder is a random one. A `constant` row has values from the
    literature by dataset, as fractions; it never runs.
    """

    scenario: Scenario
    model: str
    pretext: str | None = None
    pretext_data: str | None = None
    frozen: bool = False
    network: dict[str, Any] = {}
    finetune: dict[str, Any] = {}
    seeds: Seeds | None = None
    constant: dict[str, Number] = {}

    @model_validator(mode="after")
    def _constant_fits(self) -> Row:
        if self.scenario == "constant" and not self.constant:
            raise ValueError("scenario constant shows given values; add `constant: {DATASET: VALUE}`")
        if self.scenario != "constant" and self.constant:
            raise ValueError(f"scenario {self.scenario} is run; remove `constant:`, or set `scenario: constant`")
        return self

    @model_validator(mode="after")
    def _pretext_fits(self) -> Row:
        if self.scenario in NeedsPretext and self.pretext is None:
            raise ValueError(f"scenario {self.scenario} starts from a pretext; add `pretext:`")
        if self.scenario not in {*NeedsPretext, "probe"} and self.pretext is not None:
            raise ValueError(f"scenario {self.scenario} starts from nothing; remove `pretext: {self.pretext}`")
        return self


class Column(Model):
    """One data set of the table with its training fractions. `n_train` holds the paper's literal sizes by fraction."""

    dataset: str
    pretext_data: str | None = None
    fractions: Annotated[list[Fraction], Field(min_length=1), AfterValidator(_once)] | None = None
    n_train: dict[Number, Annotated[Whole, Field(ge=1)]] = {}

    @model_validator(mode="after")
    def _sizes_belong(self) -> Column:
        stray = [f for f in self.n_train if f not in (self.fractions or [])]
        if stray:
            raise ValueError(f"n_train names fractions that are not in `fractions`: {', '.join(map(str, stray))}")
        return self


Axis = Literal["scenario", "model", "pretext_data", "network", "frozen", "dataset", "fraction", "metric"]
Axes = Annotated[list[Axis], AfterValidator(_once)]
Metrics = Annotated[
    list[str],
    BeforeValidator(lambda v: [v] if isinstance(v, str) else v),
    Field(min_length=1),
    AfterValidator(_once),
]


class Table(Model):
    """How the result is laid out."""

    index: Axes = ["scenario", "model"]
    columns: Axes = ["dataset", "fraction"]
    value: Metrics = ["dice"]
    unit: Literal["percent", "fraction"] = "percent"
    decimals: Whole = Field(1, ge=0, le=6)
    higher_is_better: bool = True


class Resources(Model):
    """What one stage occupies while it runs.

    `gpus: auto`: where there are GPUs, the share that stages like it were measured to need, at first the kind's usual.
    """

    cpus: Number = Field(1.0, gt=0)
    gpus: Annotated[Number, Field(ge=0)] | Literal["auto"] = "auto"


class Run(Model):
    """Dials of running that never change a result."""

    checkpoint_seconds: Number = Field(30.0, gt=0)
    pack: Whole = Field(8, ge=1, description="most cells that travel to a worker together")
    lease_seconds: Number = Field(60.0, gt=0, description="how long a silent run keeps its stages from others")
    max_failures: Whole = Field(
        2, ge=0, description="how often a stage is tried again after its worker process died, its node living on"
    )
    resources: dict[Literal["prepare", "pretrain", "trial", "import", "finetune", "probe", "analysis"], Resources] = {}


class Downstream(Model):
    """A study's objective: the Dice of a small finetune, on images held out of a dataset's training part."""

    dataset: str
    fraction: Fraction | None = None
    scenario: Literal["cls-enc", "seg-enc-dec", "seg-enc"] = "seg-enc"
    share: Number = Field(0.3, gt=0, lt=1, description="of the training images, those that only validate")
    finetune: dict[str, Any] = {}
    seed: Seed = 0


class Import(Model):
    """A pretext whose weights come from a file, see `trainables.data.weight_files`."""

    method: Literal["imported"]
    format: Literal["torchvision-resnet18", "torchvision-resnet50", "genesis", "transfergrid"]
    file: str | None = None


class Pruning(Model):
    """When a trial is given up. `least` is the share of the longest length that every trial is trained for."""

    rule: Literal["asha", "hyperband", "median"] = "asha"
    least: Number = Field(1 / 9, gt=0, lt=1)
    factor: Whole = Field(3, ge=2)


class Tune(Model):
    """A study over one pretext's settings. Its winner's weights feed the cells."""

    space: str | None = None
    trials: Whole = Field(ge=1)
    lengths: Annotated[list[Annotated[Number, Field(gt=0)]], Field(min_length=1), AfterValidator(_once)] = [1.0]
    objective: Literal["validation"] | Downstream = "validation"
    pruning: Pruning | None = None
    budget: Number | None = Field(None, gt=0, description="no new trial once all have trained so many full lengths")
    parallel: Whole | None = Field(None, ge=1, description="trials at a time; default: a quarter of all, at least 2")
    startup: Whole = Field(5, ge=1, description="trials drawn at random before the sampler learns from them")
    seed: Seed = 0


class Grid(Model):
    """A table or figure: rows x columns x seeds, settings, and layout."""

    grid: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    title: str
    profile: str = "paper"
    rows: list[Row] = Field(min_length=1)
    columns: list[Column] = Field(min_length=1)
    seeds: Seeds = [0, 1, 2]
    pretrain_seed: Seed = 0
    train_sizes: Literal["paper", "fraction"] = "paper"
    table: Table = Table()
    references: str | None = None
    footnotes: list[str] = []
    pretexts: dict[str, dict[str, Any]] = {}
    datasets: dict[str, dict[str, Any]] = {}
    stand_ins: dict[str, str] = {}
    network: dict[str, Any] = {}
    networks: dict[str, dict[str, Any]] = {}
    pretrain: dict[str, Any] = {}
    finetune: dict[str, Any] = {}
    probe: dict[str, Any] = {}
    backend: dict[str, Any] = {}
    run: Run = Run()


def network_of(grid: Grid, row: Row) -> dict[str, Any]:
    """The complete settings of a row's network. The grid's `network:` is about the one it names.

    Raises:
        ValidationError: a dial that the network has not, or a wrong value.
        KeyError: no network of that name.
    """
    usual = grid.network.get("name", DEFAULT_NETWORK)
    name = row.network.get("name", usual)
    own = grid.network if name == usual else {}
    return check_section(NETWORK_SETTINGS[name], {"name": name, **grid.networks.get(name, {}), **own, **row.network})
