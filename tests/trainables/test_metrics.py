"""The segmentation metrics against loops over pixels and against torchmetrics."""

import pytest
import torch

from trainables.context import StageError
from trainables.downstream.metrics import summarise, tally
from trainables.losses.dice import dice_loss


def cases():
    """Six images: three random ones with void pixels, one with nothing in truth nor prediction, one that is all void,
    one with an object where nothing is predicted."""
    torch.manual_seed(0)
    logits = torch.randn(6, 1, 6, 5) * 2
    masks = torch.tensor([0, 1, 1, 255], dtype=torch.uint8)[torch.randint(4, (6, 6, 5))]
    masks[3], logits[3] = 0, -3.0
    masks[4] = 255
    masks[5], logits[5] = 1, -2.0
    return logits, masks


def by_hand(logits, masks):
    """All metrics, pixel by pixel; the soft ones with the smoothing of the loss."""
    images, pooled = [], {"tp": 0, "fp": 0, "fn": 0, "tn": 0}
    soft_pooled = [0.0, 0.0]
    for image, mask in zip(logits[:, 0].sigmoid(), masks, strict=True):
        c = {"tp": 0, "fp": 0, "fn": 0, "tn": 0}
        soft_hit = soft_sum = 0.0
        for p, y in zip(image.flatten().tolist(), mask.flatten().tolist(), strict=True):
            if y == 255:
                continue
            c[("t" if (p > 0.5) == (y == 1) else "f") + ("p" if p > 0.5 else "n")] += 1
            soft_hit, soft_sum = soft_hit + p * y, soft_sum + p + y
        pooled = {k: pooled[k] + c[k] for k in c}
        soft_pooled = [soft_pooled[0] + soft_hit, soft_pooled[1] + soft_sum]
        counted, true = sum(c.values()), c["tp"] + c["fn"]
        if counted:
            both = 2 * c["tp"] + c["fp"] + c["fn"]
            dice = 2 * c["tp"] / both if both else 1.0
            images.append((dice, (2 * soft_hit + 1) / (soft_sum + 1), 2 * true / (counted + true)))
    mean = [sum(column) / len(images) for column in zip(*images, strict=True)]
    wrong = pooled["fp"] + pooled["fn"]
    iou, iou_background = pooled["tp"] / (pooled["tp"] + wrong), pooled["tn"] / (pooled["tn"] + wrong)
    return {
        "dice": mean[0],
        "dice_soft": mean[1],
        "dice_all_foreground": mean[2],
        "dice_pooled": 2 * pooled["tp"] / (2 * pooled["tp"] + wrong),
        "iou": iou,
        "miou": (iou + iou_background) / 2,
        "loss": 1 - (2 * soft_pooled[0] + 1) / (soft_pooled[1] + 1),
    }


def test_equal_to_the_loop_over_pixels():
    logits, masks = cases()
    assert summarise(tally(logits, masks)) == pytest.approx(by_hand(logits, masks), abs=1e-6)


def test_batching_changes_nothing():
    logits, masks = cases()
    parts = [tally(logits[i : i + 2], masks[i : i + 2]) for i in (0, 2, 4)]
    assert summarise(torch.cat(parts)) == summarise(tally(logits, masks))


def test_equal_to_torchmetrics():
    classification = pytest.importorskip("torchmetrics.functional.classification")
    logits, masks = cases()
    found = summarise(tally(logits, masks))
    p, target = logits[:, 0].sigmoid(), masks.long()
    assert found["iou"] == pytest.approx(float(classification.binary_jaccard_index(p, target, ignore_index=255)))
    assert found["dice_pooled"] == pytest.approx(float(classification.binary_f1_score(p, target, ignore_index=255)))
    two = classification.multiclass_jaccard_index((p > 0.5).long(), target, num_classes=2, ignore_index=255)
    assert found["miou"] == pytest.approx(float(two))
    per_image = classification.binary_f1_score(
        p, target, ignore_index=255, multidim_average="samplewise", zero_division=1.0
    )
    kept = [i for i in range(6) if i != 4]
    assert found["dice"] == pytest.approx(float(per_image[kept].mean()))


def test_both_empty_is_one():
    masks = torch.zeros(1, 4, 4, dtype=torch.uint8)
    found = summarise(tally(torch.full((1, 1, 4, 4), -9.0), masks))
    assert (found["dice"], found["dice_pooled"], found["iou"], found["miou"]) == (1, 1, 1, 1)
    assert found["dice_all_foreground"] == 0


def test_empty_truth_with_a_prediction_is_zero():
    masks = torch.zeros(1, 4, 4, dtype=torch.uint8)
    found = summarise(tally(torch.full((1, 1, 4, 4), 9.0), masks))
    assert (found["dice"], found["iou"], found["miou"]) == (0, 0, 0)


def test_image_without_counted_pixels_is_left_out():
    logits, masks = cases()
    kept = [i for i in range(6) if i != 4]
    assert summarise(tally(logits, masks)) == summarise(tally(logits[kept], masks[kept]))


def test_predictions_on_pixels_not_counted_change_nothing():
    logits, masks = cases()
    changed = torch.where((masks == 255)[:, None], -logits, logits)
    assert summarise(tally(changed, masks)) == summarise(tally(logits, masks))


def test_loss_is_that_of_one_batch():
    logits, masks = cases()
    assert summarise(tally(logits, masks))["loss"] == pytest.approx(dice_loss(logits, masks).item(), abs=1e-6)


def test_all_foreground_is_the_dice_of_predicting_the_object_everywhere():
    logits, masks = cases()
    everywhere = summarise(tally(torch.full_like(logits, 9.0), masks))
    assert summarise(tally(logits, masks))["dice_all_foreground"] == pytest.approx(everywhere["dice"])


def test_nothing_to_count_is_an_error():
    masks = torch.full((2, 4, 4), 255, dtype=torch.uint8)
    with pytest.raises(StageError, match="expected masks with pixels to count"):
        summarise(tally(torch.zeros(2, 1, 4, 4), masks))
