import albumentations as A
import numpy as np

from gatedvision.data import EnlargeToCover, FreeFormMask, InpaintingFolder, collate_inpainting
from tests.data.inpainting_files import write_images


def test_small_images_are_enlarged_until_the_crop_fits(tmp_path):
    write_images(tmp_path)
    transforms = [EnlargeToCover(48, 64), A.RandomCrop(48, 64), {"type": A.HorizontalFlip, "p": 0.5}]
    data = InpaintingFolder(tmp_path, {"type": FreeFormMask}, transforms, with_sketch=True, repeats=2)
    assert len(data) == 6
    batch = collate_inpainting([data[index] for index in range(6)])
    assert batch["inputs"].shape == (6, 3, 48, 64)
    assert batch["masks"].shape == batch["sketches"].shape == (6, 1, 48, 64)
    # Holes are drawn for each sample, each time.
    assert len({mask.numpy().tobytes() for mask in batch["masks"]}) == 6
    assert 0.05 < batch["masks"].float().mean() < 0.7
    # Large enough, or too small in one side only.
    for height, width, expected in ((50, 70, (50, 70)), (10, 640, (48, 3072)), (1, 1, (64, 64))):
        result = EnlargeToCover(48, 64)(image=np.zeros((height, width, 3), np.uint8))["image"]
        assert result.shape[:2] == expected
