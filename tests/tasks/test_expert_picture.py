import numpy as np
import torch

from gatedvision.tasks._expert_picture import draw_shares, redden_dropped


def test_cells_glow_by_their_share():
    shares = torch.tensor([[0.0, 0.5, 0.5], [0.25, 0.25, 0.5]])
    picture = np.asarray(draw_shares(shares, ["cat", "dog"]))
    table = picture[10::20, -3 * 24 + 12 :: 24].astype(int)
    assert table.shape == (2, 3, 3)
    assert (table[0, 0] == 0).all() and (table[shares == 0.5] == 255).all()
    red, green, blue = table[1, 0]
    assert red > green > blue and (table[1, 0] == table[1, 1]).all()
    # The names stand before it.
    names = picture[:, : -3 * 24]
    assert names.shape == (40, 3 * 6 + 6, 3) and names.min() < 100 and names[0, 0].min() == 255


def test_many_classes_have_no_names():
    picture = draw_shares(torch.full((1000, 32), 1 / 32), ["class"] * 1000)
    assert picture.size == (32 * 10, 1000 * 2)


def test_dropped_patches_turn_red():
    image = torch.full((1, 80, 90), 200, dtype=torch.uint8)
    kept = torch.tensor([[1.0, 0.0], [0.5, 1.0]])
    pixels = np.asarray(redden_dropped(image, kept, (40, 40)))
    assert pixels.shape == (80, 90, 3)

    def at(row, column):
        return pixels[row, column].tolist()

    assert at(10, 10) == at(70, 70) == [200, 200, 200]
    red, green, blue = at(10, 60)
    assert red == round(0.4 * 200 + 0.6 * 160) and green == blue == round(0.4 * 200 + 0.6 * 20)
    assert green < at(60, 10)[1] < 200
    # What belongs to no patch.
    assert at(10, 85) == [255, 255, 255]


def test_small_images_are_enlarged():
    picture = redden_dropped(torch.zeros(3, 8, 8, dtype=torch.uint8), torch.ones(4, 4), (2, 2))
    assert picture.size == (160, 160)
