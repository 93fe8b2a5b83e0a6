"""Kind of stage -> the function that runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trainables.context import Context, Result
from trainables.downstream.finetune import finetune
from trainables.pretexts.pretrain import pretrain

STAGES: dict[str, Callable[[Mapping[str, Any], Context], Result]] = {"pretrain": pretrain, "finetune": finetune}
