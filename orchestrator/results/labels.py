"""How ids are shown to readers. An id without an entry is shown as it is."""

from __future__ import annotations

DATASETS = {
    "shapes": "Shapes",
    "textures": "Shapes by texture",
    "flowers17": "Flowers 17",
    "flowers102": "Flowers 102",
    "pets": "Oxford Pets",
    "pets-dogs": "Oxford Pets dogs",
    "cityscapes": "Cityscapes",
    "cityscapes-bus": "Cityscapes bus",
    "cityscapes-car": "Cityscapes car",
    "voc-aeroplane": "VOC aeroplane",
    "voc-cat": "VOC cat",
    "voc-horse": "VOC horse",
    "voc-bus": "VOC bus",
    "voc-car": "VOC car",
    "voc-person": "VOC person",
    "voc-motorbike": "VOC motorbike",
    "sceneparse150": "SceneParse150",
    "imagenet": "ImageNet",
    "lidc-nodules": "LIDC nodules",
    "luna16": "LUNA16",
    "cem500k": "CEM500K",
    "lucchi": "Lucchi++",
    "kasthuri": "Kasthuri++",
}
SCENARIOS = {
    "random-init": "1 (random-init)",
    "cls-enc": "2 (cls-enc)",
    "seg-enc-dec": "3 (seg-enc-dec)",
    "seg-enc": "4 (seg-enc)",
}
METRICS = {
    "dice": "Dice",
    "iou": "IoU",
    "miou": "mIoU",
    "accuracy": "Accuracy",
    "dice_eval": "Dice (eval)",
    "iou_eval": "IoU (eval)",
    "dice_pooled": "Dice (pooled)",
    "dice_hard": "Dice (hard)",
    "iou_hard": "IoU (hard)",
    "dice_soft": "Dice (soft)",
    "dice_all_foreground": "Dice (all foreground)",
    "n_samples": "Samples",
    "train_size": "Train size",
    "test_size": "Test size",
}
PSEUDO_COLOURS = "pseudo-colours"  # as `orchestrator.plan.datasets` has it; planning takes a while to import
AXES = {
    "scenario": "Scenario",
    "frozen": "Encoder",
    "model": "Model",
    "pretext": "Pretext",
    "pretext_data": "Pretext data",
    "network": "Network",
    "dataset": "Dataset",
    "fraction": "Fraction",
    "n_train": "Training images",
    "metric": "Metric",
}


def axis_label(axis: str) -> str:
    """The heading of an axis."""
    return AXES.get(axis, axis)


def value_label(axis: str, value: object) -> str:
    """One value of an axis as a reader wants it: `0.05` of fraction is `5 %`, no value is empty."""
    if axis == "fraction":
        return "all" if value is None else f"{100 * float(str(value)):.6g} %"
    if value is None:
        return ""
    if axis == "frozen":
        return "frozen" if value else "trained"
    known = {"dataset": DATASETS, "pretext_data": DATASETS, "scenario": SCENARIOS, "metric": METRICS}.get(axis, {})
    return known.get(str(value), str(value))
