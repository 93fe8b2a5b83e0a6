"""The three mask kinds: geometry and shares against the rules of P1's reference code, pixels against the picture."""

import pytest
import torch

from trainables.pretexts.masks import KINDS, PROBABILITIES, apply_masks, draw_masks

SHUFFLE, INPAINT, OUTPAINT = range(3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def masked_views(count, size, seed=0):
    """Pictures in which no two pixels are alike, their masked form, M as bool [V, H, W], and the kinds."""
    pictures = torch.rand((count, 3, size, size), generator=generator(99))
    draws = draw_masks(count, size, generator(seed))
    masked = apply_masks(pictures, draws)
    return pictures, masked.images, masked.mask[:, 0].bool(), draws.kinds


def rectangle(mask):
    """(top, left, height, width) when the set pixels of [H, W] fill a rectangle, else None."""
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    if not len(rows):
        return None
    top, left, bottom, right = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
    return (int(top), int(left), int(bottom - top), int(right - left)) if mask[top:bottom, left:right].all() else None


# Measured on the reference code: shuffling, in-painting, out-painting.
@pytest.mark.parametrize(
    ("size", "count", "shares"),
    [(64, 3000, (0.11, 0.09, 0.37)), (128, 1200, (0.12, 0.10, 0.33)), (224, 400, (0.12, 0.11, 0.32))],
)
def test_share_of_touched_pixels_and_of_kinds(size, count, shares):
    draws = draw_masks(count, size, generator())
    touched = draws.masked.float().mean((1, 2, 3))
    for kind, (share, probability) in enumerate(zip(shares, PROBABILITIES, strict=True)):
        of_kind = touched[draws.kinds == kind]
        error = of_kind.std() / len(of_kind) ** 0.5
        assert abs(of_kind.mean() - share) < 0.005 + 4 * error, KINDS[kind]  # shares are given to two digits
        assert abs(len(of_kind) / count - probability) < 4 * (probability * (1 - probability) / count) ** 0.5


def test_pixels_differ_from_the_picture_only_where_the_mask_says():
    pictures, masked, mask, _ = masked_views(300, 48)
    differs = (masked != pictures).any(1)
    assert not (differs & ~mask).any()
    assert differs.sum() > 0.9 * mask.sum()  # a shuffled pixel may fall on its own place


def test_shuffled_pixels_are_those_of_the_picture_in_another_order():
    """Views with a single block (the second one refused): the block holds the same colours."""
    pictures, masked, mask, kinds = masked_views(4000, 32)
    single = 0
    for view in (kinds == SHUFFLE).nonzero()[:, 0].tolist():
        box = rectangle(mask[view])
        if box is None:
            continue
        top, left, height, width = box
        assert 1 <= height <= 5 and 1 <= width <= 5  # [1, 0.2 * 32) without the upper end
        before, after = (
            sorted(map(tuple, x[view, :, top : top + height, left : left + width].flatten(1).T.tolist()))
            for x in (pictures, masked)
        )
        assert before == after
        single += height * width > 1
    assert single >= 5


def test_overlapping_blocks_read_the_original_picture():
    """No colour of a shuffled view comes from further away than one block is wide, as two passes would bring it."""
    pictures, masked, mask, kinds = masked_views(60, 64, seed=3)
    for view in (kinds == SHUFFLE).nonzero()[:, 0].tolist():
        place = {tuple(c): i for i, c in enumerate(pictures[view].flatten(1).T.tolist())}
        for y, x in mask[view].nonzero().tolist():
            row, column = divmod(place[tuple(masked[view, :, y, x].tolist())], 64)
            assert abs(row - y) <= 10 and abs(column - x) <= 10  # sides are at most 11


def test_inpainted_blocks_have_one_colour_each_and_keep_off_the_border():
    _, masked, mask, kinds = masked_views(300, 64)
    single = 0
    for view in (kinds == INPAINT).nonzero()[:, 0].tolist():
        assert not mask[view, :3].any() and not mask[view, -3:].any()
        assert not mask[view, :, :3].any() and not mask[view, :, -3:].any()
        assert len(masked[view][:, mask[view]].unique(dim=1).T) <= 5
        if (box := rectangle(mask[view])) is not None:
            assert 8 <= box[2] <= 11 and 8 <= box[3] <= 11  # [0.14 * 64, 0.2 * 64)
            assert len(masked[view][:, mask[view]].unique(dim=1).T) == 1
            single += 1
    assert single >= 1


def test_outpainting_leaves_windows_of_the_picture_on_a_canvas_of_one_colour():
    pictures, masked, mask, kinds = masked_views(300, 64)
    single = 0
    for view in (kinds == OUTPAINT).nonzero()[:, 0].tolist():
        assert torch.equal(masked[view][:, ~mask[view]], pictures[view][:, ~mask[view]])
        assert len(masked[view][:, mask[view]].unique(dim=1).T) == 1
        assert mask[view, :3].all() and mask[view, -3:].all() and mask[view, :, :3].all() and mask[view, :, -3:].all()
        if (box := rectangle(~mask[view])) is not None:
            assert 38 <= box[2] <= 46 and 38 <= box[3] <= 46  # 64 - [18, 27)
            single += 1
    assert single >= 1


def test_draws_follow_from_the_generator():
    first, again, other = (apply_masks(torch.zeros(9, 3, 32, 32), draw_masks(9, 32, generator(s))) for s in (1, 1, 2))
    assert torch.equal(first.images, again.images) and torch.equal(first.mask, again.mask)
    assert not torch.equal(first.mask, other.mask)


def test_small_views_are_refused():
    with pytest.raises(ValueError, match="at least 32 pixels a side, but got 24"):
        draw_masks(1, 24, generator())
