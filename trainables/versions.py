"""The version of each kind of stage and of each network. Raise it when a change of code changes results: old results
then count no more.

`tests/trainables/test_versions.py` ties each version to a digest of the source it depends on, so that nobody forgets.
"""

VERSIONS: dict[str, int] = {
    "pretrain/simclr": 1,
    "pretrain/reconstruction": 1,
    "pretrain/conrec": 1,
    "pretrain/segmentation": 2,
    "pretrain/classification": 1,
    "pretrain/byol": 1,
    "pretrain/byol-color": 1,
    "pretrain/moco-v2": 1,
    "pretrain/models-genesis": 1,
    "trial": 1,
    "finetune": 1,
    "probe": 1,
    "import": 1,
    "prepare/car-patches": 1,
    "prepare/cubes": 1,
    "prepare/colorize": 1,
    "analysis/study": 1,
    "analysis/cka": 1,
    "analysis/gradcam": 1,
    "analysis/curves": 3,
    "analysis/targets": 1,
    "analysis/predictions": 2,
    "analysis/samples": 2,
    "analysis/cam": 2,
    "analysis/confusion": 1,
    "analysis/distribution": 1,
    "network/conrec-unet": 1,
    "network/resnet18-unet": 1,
    "network/resnet50-unet": 1,
    "network/sasa-resnet50-unet": 1,
    "network/classic-unet": 1,
    "network/casser-unet": 1,
    "network/genesis-unet3d": 1,
}
