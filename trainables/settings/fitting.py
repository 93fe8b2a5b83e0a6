"""Which networks, pretexts, preparations and sizes go together.

No torch: planning asks here, so that a grid that asks for what cannot be is refused before anything is trained. The
stages ask the built networks themselves; `tests/trainables/test_fitting.py` holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trainables.settings.networks import AnyNetworkSettings, Held
from trainables.settings.pretexts import PretextSettings

# Smallest side of what a method deforms, where it is not any: below, the windows of out-painting no longer fit.
SMALLEST: Mapping[str, int] = {"conrec": 32, "reconstruction": 32, "models-genesis": 16}
# What each preparation makes.
GIVES: Mapping[str, frozenset[str]] = {
    "car-patches": frozenset({"images", "masks", "labels"}),
    "cubes": frozenset({"cubes"}),
    "colorize": frozenset({"images", "colored"}),
}
ENCODER_WEIGHTS = frozenset({"torchvision-resnet18", "torchvision-resnet50"})  # formats of files without a decoder
PREPARED_ONLY = frozenset({"colored", "cubes"})  # no data set has them as they are
WORDS = {"images": "pictures", "masks": "masks", "labels": "labels", "colored": "colorised pictures", "cubes": "cubes"}


def why_not_shown(network: AnyNetworkSettings, holds: Held, source: str) -> str | None:
    """Why a network cannot take what a data set holds; None where it can."""
    if network.takes == holds:
        return None
    advice = "network.name genesis-unet3d" if holds == "volumes" else "another network or dataset"
    return f"network {network.name} takes {network.takes}, but {source} holds {holds}; expected {advice}"


def why_not_sized(network: AnyNetworkSettings, side: int, least: int = 1) -> str | None:
    """Why pictures of that side do not fit a network that halves them and doubles back; None where they do.

    Args:
        least: of `SMALLEST`.
    """
    multiple = network.multiple
    if network.takes == "volumes" or (side >= max(multiple, least) and side % multiple == 0):
        return None
    near = max(round(side / multiple), -(-least // multiple), 1) * multiple
    at_least = f" and at least {least}" if least > multiple else ""
    return f"network {network.name} takes a multiple of {multiple}{at_least} (nearest: {near}), but got {side}"


def why_not_cubed(network: AnyNetworkSettings, sides: Sequence[int], size: int, least: int = 1) -> str | None:
    """Why volumes of these sides, brought to a longest side of `size`, do not fit a network; None where they do.

    Smaller ones stay as they are.
    """
    longest = max(sides)
    size = min(size, longest)
    shown = f"volumes of {' x '.join(map(str, sides))} voxels cannot have an input_size of {size}"
    if odd := [side for side in sides if side * size % longest]:
        return f"{shown}, as the side of {odd[0]} would be no whole number; expected a size such as {longest // 2}"
    shortest, multiple = min(sides) * size // longest, network.multiple
    if shortest < max(multiple, least) or any(side * size // longest % multiple for side in sides):
        at_least = f" and at least {least}" if least > multiple else ""
        return f"{shown}: network {network.name} takes sides that are a multiple of {multiple}{at_least}"
    return None


def why_not_learnt(pretext: type[PretextSettings], method: str, network: AnyNetworkSettings) -> str | None:
    """Why a network cannot be trained by a method; None where it can."""
    needs: Held = "volumes" if "cubes" in pretext.needs else "pictures"
    if network.takes == needs:
        return None
    advice = "network.name genesis-unet3d" if needs == "volumes" else "another network or pretext"
    return f"{method} learns from {needs}, but network {network.name} takes {network.takes}; expected {advice}"


def why_not_fed(pretext: type[PretextSettings], method: str, prepare: str | None) -> str | None:
    """Why what a preparation makes is not what a method learns from; None where it is.

    Args:
        prepare: the kind; None: the data set is read as it is.
    """
    if prepare is None:
        lacking = pretext.needs & PREPARED_ONLY
    else:
        lacking = (pretext.needs if "cubes" in pretext.needs else {"images", *pretext.needs}) - GIVES[prepare]
    if not lacking:
        return None
    first = sorted(lacking)[0]
    makers = [kind for kind, made in GIVES.items() if pretext.needs <= made and first in made]
    advice = f"`prepare: {{kind: {makers[0]}}}`" if pretext.needs & PREPARED_ONLY and makers else "no `prepare:`"
    without = "no data set has" if prepare is None else f"prepare {prepare} does not make"
    return f"{method} needs {WORDS[first]}, which {without}; expected {advice}"
