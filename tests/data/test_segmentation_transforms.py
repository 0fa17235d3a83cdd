import warnings

import albumentations as A
import cv2
import numpy as np
import torch

from gatedvision.data import RandomLabelCrop, photometric_distortion
from gatedvision.data.segmentation_transforms import LabelTransforms


def draw_pair(height: int = 40, width: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """An image whose first channel is its label map."""
    generator = np.random.default_rng(0)
    labels = np.kron(generator.integers(4, size=(height // 10, width // 10)), np.ones((10, 10))).astype(np.uint8)
    image = generator.integers(256, size=(height, width, 3), dtype=np.uint8)
    image[..., 0] = labels
    return image, labels


def test_image_and_labels_move_together_and_padding_is_ignored():
    transforms = LabelTransforms(
        [
            A.RandomScale(scale_limit=(-0.5, 1.0), interpolation=cv2.INTER_NEAREST_EXACT, p=1.0),
            RandomLabelCrop(32, 48),
            A.HorizontalFlip(p=0.5),
            A.PadIfNeeded(32, 48, position="top_left", fill=77, fill_mask=255),
        ]
    )
    padded = False
    for seed in range(30):
        torch.manual_seed(seed)
        image, labels = transforms(*draw_pair())
        assert image.shape == (32, 48, 3) and labels.shape == (32, 48)
        is_padding = labels == 255
        np.testing.assert_array_equal(image[..., 0][~is_padding], labels[~is_padding])
        assert (image[is_padding] == 77).all()
        padded |= bool(is_padding.any())
    assert padded


def test_random_numbers_follow_torch():
    transforms = LabelTransforms([RandomLabelCrop(16, 16), photometric_distortion()])
    results = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        results.append(transforms(*draw_pair()))
    np.testing.assert_array_equal(results[0][0], results[2][0])
    np.testing.assert_array_equal(results[0][1], results[2][1])
    assert not np.array_equal(results[0][0], results[1][0])


def test_windows_of_nearly_one_class_are_drawn_anew():
    image, labels = np.zeros((32, 200, 3), dtype=np.uint8), np.zeros((32, 200), dtype=np.uint8)
    labels[:, 90:110] = 1
    labels[:, :20] = 255
    shares = {}
    for max_share in (1.0, 0.75):
        transforms = LabelTransforms([RandomLabelCrop(32, 40, max_share)])
        torch.manual_seed(0)
        mixed = [len(set(np.unique(transforms(image, labels)[1])) - {255}) > 1 for _ in range(60)]
        shares[max_share] = sum(mixed) / len(mixed)
    # Ten draws find one of the 40 % of the windows that are mixed; half of those are not mixed well.
    assert shares[0.75] > 0.9


def test_distortion_leaves_labels_alone_and_images_in_half_of_the_cases():
    transforms = LabelTransforms([photometric_distortion()])
    image, labels = draw_pair()
    unchanged = 0
    for seed in range(100):
        torch.manual_seed(seed)
        distorted, same = transforms(image, labels)
        np.testing.assert_array_equal(same, labels)
        unchanged += np.array_equal(distorted, image)
    # None of four, each with a probability of a half.
    assert 1 <= unchanged <= 15


def test_no_argument_is_ignored():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LabelTransforms([{"type": RandomLabelCrop, "height": 8, "width": 8}, {"type": photometric_distortion}])
