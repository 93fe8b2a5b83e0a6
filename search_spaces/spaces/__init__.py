"""What a study tries, as define-by-run functions: one file per family of pretexts, one function per space.

A space gets Optuna's trial and a `Base`, and returns the settings to change: a pretext's own dial by its name
(`temperature`), a dial of its training as `pretrain.<dial>`. Optuna itself is not imported here.
"""

from __future__ import annotations

from search_spaces.spaces import contrastive, decoding, supervised
from search_spaces.spaces._base import Base, Space, Trial, first_changes, length

# A pretext's own space has its method's name; a grid may name another by `tune: {space: NAME}`.
SPACES: dict[str, Space] = {
    "classification": supervised.supervised,
    "segmentation": supervised.supervised,
    "simclr": contrastive.simclr,
    "byol": contrastive.byol,
    "byol-color": contrastive.byol,
    "reconstruction": decoding.reconstruction,
    "conrec": decoding.conrec,
    "learning-rate": supervised.learning_rate,
    "length": length,
}

__all__ = ["SPACES", "Base", "Space", "Trial", "first_changes"]
