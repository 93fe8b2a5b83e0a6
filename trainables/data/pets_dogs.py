"""The dogs of Oxford-IIIT Pet: masks, and 25 breeds as labels; supervised pretraining of P1 §5.1."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trainables.data import pets
from trainables.data.listing import AbsentData, Listing, count_note
from trainables.settings.datasets import PetsDogsOptions, PetsOptions

COUNTS = {"dogs": (4978, 25), "cats": (2371, 12), "all": (7349, 37)}  # images and breeds


def open_listing(data_root: Path, options: PetsDogsOptions) -> Listing:
    """The listed images of the species; labels are its breeds in the order of the official class numbers.

    Raises:
        AbsentData, DataError: as `pets`, or no image of the species.
    """
    whole = pets.open_listing(data_root, PetsOptions(border=options.border))
    stems = [name.rpartition("/")[2].rpartition(".")[0] for name in whole.images]
    kept = [number for number, stem in enumerate(stems) if options.species in ("all", _species(stem))]
    if not kept:
        raise AbsentData(f"{whole.folder}: no {options.species} among the listed images; expected {pets.HOLDS}")
    breeds = {label: stems[number].rpartition("_")[0] for number in kept if (label := whole.labels[number]) is not None}
    order = sorted(breeds)
    images, expected = COUNTS[options.species]
    notes = whole.notes + count_note(f"pets-dogs: images of {options.species}", len(kept), images)
    notes += count_note(f"pets-dogs: breeds of {options.species}", len(order), expected)
    return replace(
        whole,
        images=tuple(whole.images[number] for number in kept),
        masks=tuple(whole.masks[number] for number in kept),
        labels=tuple(order.index(label) for number in kept if (label := whole.labels[number]) is not None),
        label_names=tuple(breeds[label] for label in order),
        pretrain=tuple(range(len(kept))),
        pool=tuple(range(len(kept))),
        notes=notes,
    )


def _species(stem: str) -> str:
    """By the official names: cats begin with a capital letter."""
    return "cats" if stem[:1].isupper() else "dogs"
