import torch

from gatedvision.tasks._pixels import to_bytes

MEAN = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)
STD = torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1)


def test_bytes_come_back_from_numbers():
    image = torch.arange(3 * 5 * 17).remainder(256).byte().view(3, 5, 17)
    assert to_bytes(image, MEAN, STD) is image
    assert torch.equal(to_bytes((image / 255 - MEAN) / STD, MEAN, STD), image)


def test_what_lies_outside_is_clipped_and_grey_is_taken_as_it_is():
    assert to_bytes(torch.tensor([-1.0, 0.5, 2.0]).view(1, 1, 3), MEAN, STD).flatten().tolist() == [0, 128, 255]
