"""Options of each dataset reader, and dials of the stages that prepare data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from typing import Any, Literal, TypeVar, get_type_hints

from trainables.settings._dial import dial

VOCClass = Literal[
    "*",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]
CityscapesClass = Literal["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
Options = TypeVar("Options")


@dataclass(frozen=True)
class ShapesOptions:
    """The synthetic set: textured shapes on a textured ground, made from numbers, nothing on disk."""

    count: int = dial(240, ge=4)
    size: int = dial(48, ge=8)
    seed: int = 0


@dataclass(frozen=True)
class TexturesOptions(ShapesOptions):
    """The pictures of `shapes` as a set with official parts (the first three quarters train, and pretraining sees them
    alone) and with the texture of the shapes as labels: stripes, checks or rings."""


@dataclass(frozen=True)
class FolderOptions:
    """`images/` + `masks/` (equal stems) + optional `splits/*.txt` below `path`; see `trainables.data.folder`.

    `classes` maps pixel values to names; empty: read from `classes.yaml` in the folder, else taken as binary.
    `target` is the class to segment; empty: the only one that is not the background; `*`: all classes, numbered in
    the order of their pixel values, without those of `ignore`, which are values not counted.
    `labels` are the classes of whole images: `prefix`, the file name up to its first `_`; `folder`, the subfolder of
    `images/`. `pretrain`: `all` images, or `no-evaluation`: without those of the evaluation part.
    """

    path: str = ""
    classes: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    ignore: tuple[int, ...] = ()
    labels: Literal["none", "prefix", "folder"] = "none"
    pretrain: Literal["all", "no-evaluation"] = "all"


@dataclass(frozen=True)
class Flowers17Options:
    """`rim`: pixels labelled neither flower nor background (*open*: not counted)."""

    rim: Literal["ignore", "background"] = "ignore"


@dataclass(frozen=True)
class Flowers102Options:
    """Oxford Flowers 102 has no choices (*open*: all 8189 images)."""


@dataclass(frozen=True)
class PetsOptions:
    """`border`: the unclassified band of the trimaps (*open*: foreground, since it holds thin parts)."""

    border: Literal["foreground", "background", "ignore"] = "foreground"


@dataclass(frozen=True)
class PetsDogsOptions:
    """The dogs of Oxford-IIIT Pet, with their 25 breeds as labels [P1 §5.1]. `species: all` takes the cats too."""

    border: Literal["foreground", "background", "ignore"] = "foreground"
    species: Literal["dogs", "cats", "all"] = "dogs"


@dataclass(frozen=True)
class VOCOptions:
    """Pascal VOC 2012: `target` against the rest on the images that hold it; `*`: all 21 classes on all images.

    `pretrain`: the images of ImageSets/Main/trainval.txt (*open*: 11,540, since no labels are needed), or the 2913 with
    a segmentation, or the training part of those, so that no evaluation image is seen.
    `void`: pixels of value 255, around and between the objects (*open*: not counted).
    """

    target: VOCClass = "*"
    pretrain: Literal["main", "segmentation", "train"] = "main"
    void: Literal["ignore", "background"] = "ignore"


@dataclass(frozen=True)
class VOCFourOptions:
    """Motorbike, car, cat or aeroplane on the segmentation images with exactly one of them [P1 §5.2]; no choices."""


@dataclass(frozen=True)
class CityscapesOptions:
    """Cityscapes: `target` against the rest, on the images `with-target` or on `all` of train and val.

    `pretrain`: images of train, val and test (*open*: "the whole dataset"), or of fewer parts. `void`: pixels of the
    own car, of the rectification border, outside the region of interest or unlabelled (*open*: not counted).
    """

    target: CityscapesClass = "bus"
    images: Literal["with-target", "all"] = "with-target"
    pretrain: Literal["all", "train-val", "train"] = "all"
    void: Literal["ignore", "background"] = "ignore"


@dataclass(frozen=True)
class SceneParse150Options:
    """SceneParse150 has no choices: 150 classes, label 0 not counted; pretraining sees the training part."""


@dataclass(frozen=True)
class LucchiOptions:
    """`values`: `exact` takes 0 and 255 only; `threshold` takes what lies above 127 as mitochondrion."""

    values: Literal["exact", "threshold"] = "exact"


@dataclass(frozen=True)
class KasthuriOptions:
    """As `LucchiOptions`; `outside`: value 2, outside the annotated tissue (*open*: background)."""

    values: Literal["exact", "threshold"] = "exact"
    outside: Literal["background", "ignore"] = "background"


@dataclass(frozen=True)
class CEM500KOptions:
    """CEM500K: a classification part with organisms as labels, and a disjoint pretraining part [P2 §IV-B, §V-B].

    `organisms` is a CSV file (`source,organism`) in the dataset's folder or below the data root. `classification` and
    `pretraining` are the numbers of images, drawn by `seed` (*open*: natural proportions; no image in both parts).
    """

    organisms: str = "organisms.csv"
    classes: tuple[str, ...] = ("Mouse", "Human", "C. elegans")
    classification: int = dial(100_000, ge=1)
    pretraining: int = dial(150_000, ge=1)
    seed: int = 0


@dataclass(frozen=True)
class LIDCOptions:
    """The nodule cubes of Models Genesis have no choices; `valid` chooses weights, `test` evaluates [P1 §4]."""


@dataclass(frozen=True)
class LUNA16Options:
    """LUNA16: which of its ten folds pretrain and which validate [genesis: config.py]; the rest is kept out."""

    folds: tuple[int, ...] = (0, 1, 2, 3, 4)
    validation_folds: tuple[int, ...] = (5, 6)


@dataclass(frozen=True)
class NodulesOptions:
    """The synthetic volumes: lung-like cubes with vessels and a nodule, made from numbers, nothing on disk."""

    count: int = dial(120, ge=8)
    width: int = dial(64, ge=16, multiple_of=8)
    depth: int = dial(32, ge=8, multiple_of=8)
    seed: int = 0


def _with(base: type[Options], name: str, **defaults: Any) -> type[Options]:
    """The same options with other defaults, under the name of a dataset of its own."""
    hints = get_type_hints(base)
    made = make_dataclass(name, [(n, hints[n], value) for n, value in defaults.items()], bases=(base,), frozen=True)
    made.__doc__, made.__module__ = base.__doc__, __name__
    return made


DatasetOptions = (
    ShapesOptions
    | TexturesOptions
    | FolderOptions
    | Flowers17Options
    | Flowers102Options
    | PetsOptions
    | PetsDogsOptions
    | VOCOptions
    | VOCFourOptions
    | CityscapesOptions
    | SceneParse150Options
    | LucchiOptions
    | KasthuriOptions
    | CEM500KOptions
    | LIDCOptions
    | LUNA16Options
    | NodulesOptions
)
DATASET_OPTIONS: dict[str, type[DatasetOptions]] = {
    "shapes": ShapesOptions,
    "textures": TexturesOptions,
    "folder": FolderOptions,
    "flowers17": Flowers17Options,
    "flowers102": Flowers102Options,
    "pets": PetsOptions,
    "pets-dogs": PetsDogsOptions,
    "voc": VOCOptions,
    "voc-aeroplane": _with(VOCOptions, "VOCAeroplaneOptions", target="aeroplane"),
    "voc-cat": _with(VOCOptions, "VOCCatOptions", target="cat"),
    "voc-horse": _with(VOCOptions, "VOCHorseOptions", target="horse"),
    "voc-bus": _with(VOCOptions, "VOCBusOptions", target="bus"),
    "voc-car": _with(VOCOptions, "VOCCarOptions", target="car"),
    "voc-person": _with(VOCOptions, "VOCPersonOptions", target="person"),
    "voc-motorbike": _with(VOCOptions, "VOCMotorbikeOptions", target="motorbike"),
    "voc-four": VOCFourOptions,
    "cityscapes-bus": CityscapesOptions,
    "cityscapes-car": _with(CityscapesOptions, "CityscapesCarOptions", target="car", images="all"),
    "sceneparse150": SceneParse150Options,
    "lucchi": LucchiOptions,
    "kasthuri": KasthuriOptions,
    "cem500k": CEM500KOptions,
    "lidc-nodules": LIDCOptions,
    "luna16": LUNA16Options,
    "nodules": NodulesOptions,
}


@dataclass(frozen=True)
class PatchSettings:
    """Car and no-car patches, one of each picture [P1 §5.1]; tries and sides are *open*.

    Random square crops are drawn until one has no target pixel (no car) or at least `target_share` (car); after `tries`
    the picture is dropped and counted. The side is uniform between `smallest` and `largest`, shares of the picture's
    short side: 256 to 1024 pixels in Cityscapes, and in small pictures as much of the scene. `size` is the side that a
    patch is brought to. `train_share` of the patches train, the others validate. The paper takes pictures of train and
    val; `exclude_val` takes those of train alone, so that no picture of an evaluation part is seen.
    """

    kind: Literal["car-patches"] = "car-patches"
    size: int = dial(128, ge=8, multiple_of=8)
    smallest: float = dial(0.25, gt=0, le=1)
    largest: float = dial(1.0, gt=0, le=1)
    target_share: float = dial(0.2, gt=0, le=1)
    tries: int = dial(200, ge=1)
    train_share: float = dial(0.7, gt=0, lt=1)
    exclude_val: bool = False


@dataclass(frozen=True)
class CubeSettings:
    """Cubes for Models Genesis cut from CT scans, as its generator does [genesis: infinite_generator_3D.py].

    `cubes` of each scan at random places at least `border` voxels (x and y) and `border_z` (z) from its ends. A cube is
    refused where the mean tissue score exceeds `tissue`; after `tries` times `cubes` draws a scan gives what it has.
    """

    kind: Literal["cubes"] = "cubes"
    cubes: int = dial(32, ge=1)
    width: int = dial(64, ge=8, multiple_of=8)
    depth: int = dial(32, ge=8, multiple_of=8)
    border: int = dial(100, ge=0)
    border_z: int = dial(30, ge=0)
    tissue: float = dial(0.15, gt=0, le=1)
    tries: int = dial(50, ge=1)


@dataclass(frozen=True)
class ColorizeSettings:
    """Pictures of pretraining in grey and in colour, for BYOL with colorization [P2 §IV-A]; `size` is their side.

    `colours`: of the ECCV-2016 network (its weights: `file`, else the usual names below `weights/`), or `pseudo`: a
    fixed curve from lightness to colour, whose results are not the paper's. `colourspace`: *open*, RGB as P2's Fig. 6
    shows; its text says Lab.
    """

    kind: Literal["colorize"] = "colorize"
    size: int = dial(128, ge=8, multiple_of=8)
    colours: Literal["network", "pseudo"] = "network"
    colourspace: Literal["rgb", "lab"] = "rgb"
    file: str | None = None


PREPARE_SETTINGS: dict[str, type[PatchSettings] | type[CubeSettings] | type[ColorizeSettings]] = {
    "car-patches": PatchSettings,
    "cubes": CubeSettings,
    "colorize": ColorizeSettings,
}
