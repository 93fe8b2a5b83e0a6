"""Kind of stage -> the function that runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trainables.analyses import analyse
from trainables.context import Context, Result
from trainables.data.prepare import prepare
from trainables.downstream.finetune import finetune
from trainables.downstream.probe import probe
from trainables.imports import import_weights
from trainables.pretexts.pretrain import pretrain
from trainables.pretexts.trial import trial

STAGES: dict[str, Callable[[Mapping[str, Any], Context], Result]] = {
    "prepare": prepare,
    "import": import_weights,
    "pretrain": pretrain,
    "trial": trial,
    "finetune": finetune,
    "probe": probe,
    "analysis": analyse,
}
