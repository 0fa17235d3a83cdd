import numpy as np
from PIL import Image

import gatedvision
from tests.inpainting.noise import HOLE


def test_filled_inks_have_their_share_of_black_from_the_image(network):
    # Grey without black ink, and the same grey of black ink only.
    for ink in ([128, 128, 128, 0], [0, 0, 0, 128]):
        picture = Image.frombytes("CMYK", HOLE.shape[::-1], bytes(ink) * HOLE.size)
        assert (np.asarray(gatedvision.inpaint(picture, HOLE, network)) == ink).all()
    # White has no shares to go by.
    picture = Image.frombytes("CMYK", HOLE.shape[::-1], bytes(4) * HOLE.size)
    assert not np.asarray(gatedvision.inpaint(picture, HOLE, network)).any()
