"""What every dataset reader must keep. A reader's test is a subclass with a `listing` fixture."""

from __future__ import annotations

import pickle
import warnings

import pytest
import torch

from trainables.data import DataError, Listing, split, survey
from trainables.data.cube_stack import load_cubes
from trainables.data.stack import load_stack


class ListingContract:
    """Subclass it and give `listing`: a sound dataset with at least 4 images or volumes."""

    @pytest.fixture
    def listing(self) -> Listing:
        raise NotImplementedError

    def test_images_masks_and_labels_belong_together(self, listing):
        assert len(listing.images) == len(listing.masks) == len(listing.labels) == len(set(listing.images))
        assert not any("\\" in name or name.startswith("/") for name in listing.images)

    def test_numbers_point_at_images_and_each_part_names_them_once(self, listing):
        for part in (listing.pretrain, listing.pool, listing.train, listing.validation, listing.evaluation):
            assert set(part) <= set(range(len(listing.images)))
            assert len(set(part)) == len(part)
        assert not set(listing.train) & set(listing.evaluation)
        assert not (listing.pool and (listing.train or listing.evaluation))
        assert listing.pretrain

    def test_what_the_task_uses_has_masks(self, listing):
        assert all(listing.masks[number] is not None for number in listing.annotated)
        assert set(listing.mask_values.values()) <= {*range(len(listing.classes)), 255}
        assert len(listing.classes) == len(set(listing.classes)) != 1
        assert bool(listing.classes) == bool(listing.mask_values)

    def test_labels_are_numbers_of_named_classes(self, listing):
        labels = {label for label in listing.labels if label is not None}
        if listing.label_names:
            assert labels <= set(range(len(listing.label_names)))
            assert len(set(listing.label_names)) == len(listing.label_names)
        assert listing.labelled == tuple(n for n, label in enumerate(listing.labels) if label is not None)

    def test_a_survey_is_sound_and_the_second_decodes_nothing(self, listing, tmp_path):
        first = survey(listing, cache_dir=tmp_path)
        assert first.problems == ()
        assert len(first.fingerprint) == 64
        calls = []
        second = survey(listing, cache_dir=tmp_path, on_progress=lambda *done: calls.append(done))
        assert second == first
        assert calls == []

    def test_a_listing_can_be_sent_to_another_process(self, listing):
        copy = pickle.loads(pickle.dumps(listing))
        assert copy == listing
        assert survey(copy).fingerprint == survey(listing).fingerprint

    def test_splits_are_nested_and_training_never_evaluates(self, listing):
        if not listing.annotated:
            with pytest.raises(DataError, match="no image has a mask"):
                split(listing, 0.5, None, 0)
            return
        small, large = split(listing, None, 1, 7), split(listing, None, 2, 7)
        assert set(small.train) < set(large.train)
        assert not set(large.train) & set(large.evaluation)
        if listing.pool:
            assert set(large.train) | set(large.evaluation) == set(listing.pool)
        else:
            assert large.evaluation == listing.evaluation
        assert set(large.train) <= set(listing.pool or listing.train)


class DatasetContract(ListingContract):
    """What every set of pictures must keep besides."""

    size = 32

    def test_stack_rows_follow_the_numbers_asked_for(self, listing, tmp_path):
        numbers = list(range(len(listing.images)))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            whole = load_stack(listing, numbers, self.size, masks=False, cache_dir=tmp_path)
            part = load_stack(listing, numbers[::-2], self.size, masks=False, cache_dir=tmp_path)
        assert whole.images.shape == (len(numbers), 3, self.size, self.size)
        assert whole.images.dtype == torch.uint8
        assert whole.boxes.shape == (len(numbers), 4)
        assert whole.boxes.dtype == torch.int64
        assert whole.masks is None
        assert torch.equal(part.images, whole.images[numbers[::-2]])
        assert torch.equal(part.boxes, whole.boxes[numbers[::-2]])
        for numbers in (listing.pretrain, listing.labelled, listing.annotated):
            some = load_stack(listing, numbers[::-1], self.size, masks=False, cache_dir=tmp_path)
            assert torch.equal(some.images, whole.images[list(numbers[::-1])])

    def test_labels_come_with_the_stack(self, listing, tmp_path):
        numbers = list(range(len(listing.images)))
        labels = load_stack(listing, numbers, self.size, masks=False, cache_dir=tmp_path).labels
        if listing.labelled:
            assert labels.dtype == torch.int64
            assert labels.tolist() == [-1 if label is None else label for label in listing.labels]
        else:
            assert labels is None

    def test_outside_the_box_images_are_zero_and_masks_not_counted(self, listing, tmp_path):
        if not listing.annotated:
            with pytest.raises(DataError, match="mask"):
                load_stack(listing, [0], self.size, masks=True, cache_dir=tmp_path)
            return
        stack = load_stack(listing, listing.annotated, self.size, masks=True, cache_dir=tmp_path)
        assert stack.masks.dtype == torch.uint8
        assert set(stack.masks.unique().tolist()) <= {*range(len(listing.classes)), 255}
        assert (stack.masks == 1).any()
        for image, mask, (top, left, height, width) in zip(
            stack.images, stack.masks, stack.boxes.tolist(), strict=True
        ):
            assert max(height, width) == self.size
            outside = torch.ones_like(mask, dtype=torch.bool)
            outside[top : top + height, left : left + width] = False
            assert (image[:, outside] == 0).all()
            assert (mask[outside] == 255).all()


class VolumeContract(ListingContract):
    """What every set of volumes must keep besides."""

    def test_cubes_follow_the_numbers_asked_for(self, listing, tmp_path):
        numbers = list(range(len(listing.images)))
        whole = load_cubes(listing, numbers, masks=False, cache_dir=tmp_path)
        part = load_cubes(listing, numbers[::-2], masks=False, cache_dir=tmp_path)
        assert whole.cubes.ndim == 4
        assert whole.cubes.dtype in (torch.uint8, torch.float16)
        assert whole.masks is None
        assert torch.equal(part.cubes, whole.cubes[numbers[::-2]])
        images = whole.images(slice(0, 2))
        assert images.dtype == torch.float32
        assert images.shape == (2, 1, *whole.cubes.shape[1:])
        assert images.min() >= 0
        assert images.max() <= 1

    def test_masks_belong_to_their_cubes(self, listing, tmp_path):
        if not listing.annotated:
            with pytest.raises(DataError, match="mask"):
                load_cubes(listing, [0], masks=True, cache_dir=tmp_path)
            return
        stack = load_cubes(listing, listing.annotated, masks=True, cache_dir=tmp_path)
        assert stack.masks.shape == stack.cubes.shape
        assert stack.masks.dtype == torch.uint8
        assert set(stack.masks.unique().tolist()) <= {0, 1, 255}
        assert (stack.masks == 1).any()

    def test_it_is_no_set_of_pictures(self, listing, tmp_path):
        with pytest.raises(DataError, match="holds volumes"):
            load_stack(listing, [0], 16, masks=False, cache_dir=tmp_path)
