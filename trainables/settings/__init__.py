"""Every dial of a stage, with the paper's value as its default. No torch here, so that planning stays fast.

Sources: P1 is "Choose the Right Encoder and Skip the Decoder"; conrec is its reference code (CONTRIBUTING, "Sources").
A value marked *open* is stated nowhere; the reason for ours stands beside it.
"""

from __future__ import annotations

from trainables.settings._dial import dial, parse
from trainables.settings.datasets import DATASET_OPTIONS, DatasetOptions
from trainables.settings.later import as_before, as_now
from trainables.settings.networks import NETWORK_SETTINGS, AnyNetworkSettings, NetworkSettings, parse_network
from trainables.settings.pretexts import (
    ENCODER_ONLY,
    PRETEXT_SETTINGS,
    BYOLColorSettings,
    BYOLSettings,
    ClassificationSettings,
    ConRecSettings,
    DecodingTask,
    MoCoSettings,
    ModelsGenesisSettings,
    PretextSettings,
    ReconstructionSettings,
    SegmentationSettings,
    SimCLRSettings,
    parse_pretext,
)
from trainables.settings.training import (
    LENGTH_DIALS,
    BackendSettings,
    FinetuneSettings,
    PretrainSettings,
    ProbeSettings,
)

__all__ = [
    "DATASET_OPTIONS",
    "ENCODER_ONLY",
    "LENGTH_DIALS",
    "NETWORK_SETTINGS",
    "PRETEXT_SETTINGS",
    "SECTIONS",
    "AnyNetworkSettings",
    "BYOLColorSettings",
    "BYOLSettings",
    "BackendSettings",
    "ClassificationSettings",
    "ConRecSettings",
    "DatasetOptions",
    "DecodingTask",
    "FinetuneSettings",
    "MoCoSettings",
    "ModelsGenesisSettings",
    "NetworkSettings",
    "PretextSettings",
    "PretrainSettings",
    "ProbeSettings",
    "ReconstructionSettings",
    "SegmentationSettings",
    "SimCLRSettings",
    "as_before",
    "as_now",
    "dial",
    "parse",
    "parse_network",
    "parse_pretext",
]

SECTIONS: dict[str, type] = {
    "network": NetworkSettings,
    "backend": BackendSettings,
    "pretrain": PretrainSettings,
    "finetune": FinetuneSettings,
    "probe": ProbeSettings,
}
