import numpy as np
import pytest

import gatedvision
from tests.inpainting.noise import HOLE, noise


def test_nan_is_fine_in_the_hole_only(network):
    image = noise(3, dtype="float32")
    image[12, 40] = np.nan
    result = gatedvision.inpaint(image, HOLE, network)
    assert np.isfinite(result).all() and network.seen[0][0].isfinite().all()
    image[5, 6, 1] = np.nan
    with pytest.raises(ValueError, match=r"known pixel at row 5, column 6 is \(.*, nan, .*\); mark it in the mask"):
        gatedvision.inpaint(image, HOLE, network)
    with pytest.raises(ValueError, match=r"row 0, column 0 is \(200\); floats are 0 to 1, so scale the image"):
        gatedvision.inpaint(np.full(HOLE.shape, 200.0), HOLE, network)
