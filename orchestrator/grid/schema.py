"""The shape of a grid. Sections of stage settings are the dataclasses of `trainables.settings`, checked strictly."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    model_validator,
)

from orchestrator.grid.sections import check_section as check_section  # for those who look for it here
from orchestrator.grid.sections import no_bool, once
from trainables.settings.networks import NETWORK_SETTINGS

DEFAULT_NETWORK = "conrec-unet"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"  # of files, too
Scenario = Literal["random-init", "cls-enc", "seg-enc-dec", "seg-enc", "probe", "constant"]
MOST_TRIALS, MOST_SEEDS = 10_000, 1_000  # every one is planned at once: more is a typo that would fill the memory
NeedsPretext = frozenset({"cls-enc", "seg-enc-dec", "seg-enc"})


class Model(BaseModel):
    """Base of all grid models: unknown keys are errors, objects do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Whole = Annotated[int, BeforeValidator(no_bool)]
Number = Annotated[float, BeforeValidator(no_bool)]
Fraction = Annotated[Number, Field(gt=0, le=1)]
Seed = Annotated[Whole, Field(ge=0)]
Seeds = Annotated[list[Seed], Field(min_length=1), AfterValidator(once)]


class SeedLooks(Model):
    """`seeds: {looks: [3, 5, 10, 20], until: claims}`: more seeds only for the cells whose claims are open at a look.

    The seeds are 0, 1, 2, ...; `rule` says how alpha is spent over the looks (`results.statistics.looks`).
    """

    looks: list[Annotated[Whole, Field(ge=2, le=MOST_SEEDS)]]
    until: Literal["claims"] = "claims"
    rule: Literal["pocock", "obrien-fleming"] = "pocock"

    @model_validator(mode="after")
    def _ascending(self) -> SeedLooks:
        if len(self.looks) < 2 or any(a >= b for a, b in pairwise(self.looks)):
            raise ValueError(f"expected two looks or more, each with more seeds than the one before, not {self.looks}")
        return self


def _one_or_more(value: Any) -> Any:
    return [value] if value is not None and not isinstance(value, list) else value


_Several = (BeforeValidator(_one_or_more), Field(min_length=1), AfterValidator(once))
Texts = Annotated[list[str], *_Several]


class Cells(Model):
    """Some cells of a grid: on each axis named here they have one of its values. `grid`: of which, else of this one."""

    grid: str | None = None
    scenario: Annotated[list[Scenario], *_Several] | None = None
    model: Texts | None = None
    pretext: Texts | None = None
    pretext_data: Texts | None = None
    network: Texts | None = None
    frozen: bool | None = None
    dataset: Texts | None = None
    fraction: Annotated[list[Fraction], *_Several] | None = None
    seed: Annotated[list[Seed], *_Several] | None = None

    def take(self, cell: Mapping[str, Any]) -> bool:
        """Whether a cell with these values is one of them."""
        return all(
            wanted is None or cell[axis] in (wanted if isinstance(wanted, list) else [wanted])
            for axis, wanted in self
            if axis != "grid"
        )


Selections = Annotated[list[Cells], BeforeValidator(_one_or_more), Field(min_length=1)]


# Of a pretext's entry in a grid, what is no dial of the method itself.
PRETEXT_SECTIONS = ("pretrain", "tune", "prepare", "init")


class Row(Model):
    """One row of the table: how a network is initialised, and from what.

    A `probe` row may have a pretext; without one its encoder is a random one. A `constant` row has values from the
    literature by dataset, as fractions and of the first metric of the table; it never runs.
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
    fractions: Annotated[list[Fraction], Field(min_length=1), AfterValidator(once)] | None = None
    n_train: dict[Number, Annotated[Whole, Field(ge=1)]] = {}

    @model_validator(mode="after")
    def _sizes_belong(self) -> Column:
        stray = [f for f in self.n_train if f not in (self.fractions or [])]
        if stray:
            raise ValueError(f"n_train names fractions that are not in `fractions`: {', '.join(map(str, stray))}")
        return self


Axis = Literal["scenario", "model", "pretext_data", "network", "frozen", "dataset", "fraction", "metric"]
Axes = Annotated[list[Axis], AfterValidator(once)]
Metrics = Annotated[
    list[str],
    BeforeValidator(lambda v: [v] if isinstance(v, str) else v),
    Field(min_length=1),
    AfterValidator(once),
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

    `gpus: auto`: where there are GPUs, a whole one for what trains for long (pretrain, trial) and fills it; for small
    stages the share that stages like them were measured to need, at first the kind's usual.
    """

    cpus: Number = Field(1.0, gt=0)
    gpus: Annotated[Number, Field(ge=0)] | Literal["auto"] = "auto"


class Run(Model):
    """Dials of running that never change a result."""

    checkpoint_seconds: Number = Field(30.0, gt=0)
    pack: Whole = Field(8, ge=1, description="most cells that travel to a worker together")
    fusing: Literal["measured", "always"] = Field(
        "measured", description="where backend.fused allows it: train cells as one if that is faster, or in any case"
    )
    fused_cells: Whole = Field(16, ge=2, description="most cells that are trained as one")
    lease_seconds: Number = Field(60.0, gt=0, description="how long a silent run keeps its stages from others")
    max_failures: Whole = Field(
        2, ge=0, description="how often a stage is tried again after its worker process died, its node living on"
    )
    keep_weights: Annotated[list[Cells], BeforeValidator(_one_or_more)] = Field(
        [], description="finetuned networks to keep, for pictures of what they predict; a figure here keeps its own"
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
    trials: Whole = Field(ge=1, le=MOST_TRIALS)
    lengths: Annotated[list[Annotated[Number, Field(gt=0)]], Field(min_length=1), AfterValidator(once)] = [1.0]
    objective: Literal["validation"] | Downstream = "validation"
    pruning: Pruning | None = None
    budget: Number | None = Field(None, gt=0, description="no new trial once all have trained so many full lengths")
    parallel: Whole | None = Field(None, ge=1, description="trials at a time; default: a quarter of all, at least 2")
    startup: Whole = Field(5, ge=1, description="trials drawn at random before the sampler learns from them")
    seed: Seed = 0


class Grid(Model):
    """A table or figure: rows x columns x seeds, settings, layout, and the analyses drawn from it.

    others: the parts of other grids that its analyses draw from, by the name used here (`load` finds them).
    """

    grid: str = Field(pattern=NAME)
    title: str
    profile: str = "paper"
    rows: Annotated[list[Row], Field(min_length=1)] = []
    columns: Annotated[list[Column], Field(min_length=1)] = []
    analyses: dict[Annotated[str, Field(pattern=NAME)], dict[str, Any]] = {}
    seeds: Seeds = [0, 1, 2]
    pretrain_seed: Seed = 0
    train_sizes: Literal["paper", "fraction"] = "paper"
    table: Table = Table()
    references: str | None = None
    footnotes: list[str] = []
    claims: list[dict[str, Any]] = []  # checked by `grid.claims`
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
    _others: dict[str, Grid] = PrivateAttr(default_factory=dict)
    _looks: SeedLooks | None = PrivateAttr(default=None)

    @model_validator(mode="wrap")
    @classmethod
    def _seeds_by_looks(cls, values: Any, handler: ModelWrapValidatorHandler[Grid]) -> Grid:
        """Where seeds come in by looks, `seeds` are those of the last one."""
        stated = values.get("seeds") if isinstance(values, Mapping) else None
        if not isinstance(stated, Mapping):
            return handler(values)
        looks = SeedLooks.model_validate(stated)  # `load` has told its faults
        grid = handler({**values, "seeds": list(range(looks.looks[-1]))})
        grid._looks = looks
        return grid

    @model_validator(mode="after")
    def _asks_for_something(self) -> Grid:
        for name, other in (("rows", "columns"), ("columns", "rows")):
            if not getattr(self, name) and (getattr(self, other) or not self.analyses):
                raise ValueError(f"{name} is missing")
        return self

    @property
    def looks(self) -> SeedLooks | None:
        """How the seeds come in; None where all run at once."""
        return self._looks

    @property
    def others(self) -> Mapping[str, Grid]:
        """Other grids that the analyses draw from."""
        return self._others

    def beside(self, others: Mapping[str, Grid], **changes: Any) -> Grid:
        """This grid with other ones beside it, and with `changes`."""
        copy = self.model_copy(update=changes)
        copy._others = dict(others)
        return copy


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
