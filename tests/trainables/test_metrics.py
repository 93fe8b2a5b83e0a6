"""The segmentation metrics against loops over pixels and against torchmetrics."""

import math

import pytest
import torch

from trainables.context import StageError
from trainables.downstream.metrics import summarise, summarise_batches, tally, tally_batch
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


def volumes(count=7):
    """Cubes of 4 x 3 x 2 voxels with an object, void voxels, sure and unsure predictions."""
    torch.manual_seed(1)
    logits = torch.randn(count, 1, 4, 3, 2) * 3
    masks = torch.tensor([0, 0, 0, 1, 255], dtype=torch.uint8)[torch.randint(5, (count, 4, 3, 2))]
    return logits, masks


def eval_pair_by_hand(batches):
    """As the official code has it, voxel by voxel: Dice of a batch; IoU of two classes at ten thresholds of all voxels
    so far; both averaged over the batches with their sizes as weights."""
    thresholds = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    confusion = [[[0, 0], [0, 0]] for _ in thresholds]  # by threshold: [truth][prediction]
    dice_sum = iou_sum = images = 0
    for logits, masks in batches:
        intersection = predicted = true = 0.0
        for z, y in zip(logits.flatten().tolist(), masks.flatten().tolist(), strict=True):
            if y == 255:
                continue
            p = 1 / (1 + math.exp(-z))
            intersection, predicted, true = intersection + p * y, predicted + p, true + y
            for k, threshold in enumerate(thresholds):
                confusion[k][y][int(p > threshold)] += 1
        dice = (2 * intersection + 1) / (predicted + true + 1)
        means = []
        for counts in confusion:
            ious = []
            for kind in (0, 1):
                hit = counts[kind][kind]
                union = sum(counts[kind]) + counts[0][kind] + counts[1][kind] - hit
                if union:
                    ious.append(hit / union)
            means.append(sum(ious) / len(ious))
        dice_sum += dice * len(masks)
        iou_sum += sum(means) / 10 * len(masks)
        images += len(masks)
    return {"dice_eval": dice_sum / images, "iou_eval": iou_sum / images}


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_eval_pair_equals_the_loop_over_voxels(batch):
    logits, masks = volumes()
    batches = [(logits[i : i + batch], masks[i : i + batch]) for i in range(0, 7, batch)]
    found = summarise_batches([tally_batch(*each) for each in batches])
    assert found == pytest.approx(eval_pair_by_hand(batches), abs=1e-6)


def test_eval_pair_of_two_batches_worked_out():
    """Two batches, of two cubes and one, of four voxels a cube. Every probability is near 0 or 1.

    First: truth 1 1 0 0 | 0 0 0 0, prediction 1 0 0 0 | 0 0 0 0: Dice (2 * 1 + 1) / (1 + 2 + 1) = 3/4; IoU of the
    object 1/2, of the background 6/7, mean 19/28. Second: truth 1 1 1 1, prediction 1 1 0 0: Dice (2 * 2 + 1) /
    (2 + 4 + 1) = 5/7; of all twelve voxels the object's IoU is 3/6, the background's 6/9, mean 7/12.
    """
    truth = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.uint8).view(3, 2, 2, 1)
    predicted = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]]).view(3, 1, 2, 2, 1)
    logits = torch.where(predicted == 1, 40.0, -40.0)
    found = summarise_batches([tally_batch(logits[:2], truth[:2]), tally_batch(logits[2:], truth[2:])])
    assert found["dice_eval"] == pytest.approx((2 * 3 / 4 + 5 / 7) / 3)
    assert found["iou_eval"] == pytest.approx((2 * 19 / 28 + 7 / 12) / 3)


def test_eval_iou_counts_only_classes_that_are_there():
    nothing = torch.zeros(1, 2, 2, 2, dtype=torch.uint8)
    assert summarise_batches([tally_batch(torch.full((1, 1, 2, 2, 2), -9.0), nothing)])["iou_eval"] == 1


def test_a_probability_at_a_threshold_does_not_exceed_it():
    """0.5 exactly is background at each of the ten thresholds."""
    one = torch.ones(1, 1, 1, 2, dtype=torch.uint8)
    found = tally_batch(torch.zeros(1, 1, 1, 1, 2), one)
    assert found.confusion.tolist() == [[[0, 0], [2, 0]]] * 10
    sure = tally_batch(torch.full((1, 1, 1, 1, 2), 40.0), one)
    assert sure.confusion.tolist() == [[[0, 0], [0, 2]]] * 10


def test_the_tally_of_volumes_is_that_of_their_voxels():
    logits, masks = volumes()
    flat = summarise(tally(logits.flatten(3), masks.flatten(2)))
    assert summarise(tally(logits, masks)) == flat
