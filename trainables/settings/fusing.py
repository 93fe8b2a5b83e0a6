"""Which finetune stages can be trained as one (`trainables.downstream.fused`). No torch: planning asks, too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from trainables.settings._dial import parse
from trainables.settings.networks import SasaResNet50UNetSettings, parse_network
from trainables.settings.training import BackendSettings, FinetuneSettings

# They treat each number by itself, and what they take off is proportional to the learning rate. LARS does neither: its
# rate is that of a whole tensor, and goes into its state.
OPTIMIZERS = ("adam", "sgd")


def why_not_fused(spec: Mapping[str, Any]) -> str | None:
    """Why a finetune stage has to be trained alone; None where it can be trained with others of its `fused_shape`."""
    network, settings = parse_network(spec["network"]), parse(FinetuneSettings, spec["finetune"])
    if isinstance(network, SasaResNet50UNetSettings) and network.attention != "dot":
        return (
            f"network {network.name} with attention {network.attention} cannot be fused with others, since it halves "
            "its channels as a whole; expected attention: dot"
        )
    if isinstance(network, SasaResNet50UNetSettings) and network.embeddings != "per-head":
        return (
            f"network {network.name} with embeddings {network.embeddings} cannot be fused with others, since its first "
            "heads differ from its last ones; expected embeddings: per-head"
        )
    if parse(BackendSettings, spec.get("backend", {})).compiled:
        return "compiled networks cannot be fused with others, whose number changes; expected backend.compiled: false"
    if settings.optimizer not in OPTIMIZERS:
        return (
            f"finetune.optimizer {settings.optimizer} cannot be fused with others; those that can: "
            f"{', '.join(OPTIMIZERS)}"
        )
    return None


def fused_shape(spec: Mapping[str, Any]) -> str:
    """A text that is equal for finetune stages which can be trained as one: their network, dials and backend."""
    network, settings = parse_network(spec["network"]), parse(FinetuneSettings, spec["finetune"])
    backend = parse(BackendSettings, spec.get("backend", {}))
    parts = [vars(network), vars(settings), bool(spec.get("frozen", False)), vars(backend)]
    return json.dumps(parts, sort_keys=True)
