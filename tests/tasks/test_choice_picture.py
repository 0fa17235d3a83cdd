import numpy as np
import torch

from gatedvision.tasks._choice_picture import draw_choice


def test_coarse_regions_are_dark_and_fine_ones_cut_up():
    image = torch.full((3, 64, 96), 200, dtype=torch.uint8)
    coarse = torch.tensor([[True, False, True], [True, True, False]])
    pixels = np.asarray(draw_choice(image, coarse, region=32, fine=16)).astype(int)
    assert pixels.shape == (128, 96, 3)
    assert (pixels[:64] == 200).all(), "the image itself stands above"
    shown = pixels[64:]
    for row, column in np.ndindex(2, 3):
        cell = shown[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        inside = 90 if coarse[row, column] else 200
        assert (cell[8, 8] == inside).all() and (cell[24, 24] == inside).all()
        is_cut = (cell[16, 8] != inside).any() and (cell[8, 16] != inside).any()
        assert is_cut == (not coarse[row, column])


def test_small_and_grey_images_are_enlarged_and_regions_may_reach_over_the_edge():
    image = torch.arange(49, dtype=torch.uint8).view(1, 7, 7)
    picture = draw_choice(image, torch.zeros(4, 4, dtype=torch.bool), region=2, fine=1)
    zoom = 160 // 7
    assert picture.size == (7 * zoom, 2 * 7 * zoom) and picture.mode == "RGB"
    assert picture.getpixel((3 * zoom + 1, 2 * zoom + 1)) == (17, 17, 17)
