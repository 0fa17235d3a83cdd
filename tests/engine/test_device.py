"""Devices by name."""

import pytest
import torch

from gatedvision.engine.device import find_device


def test_a_name_is_a_device_of_this_machine():
    assert find_device("cpu") == torch.device("cpu")
    assert find_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["toaster", "cuda:99", "cpu:x"])
def test_others_are_refused(name):
    with pytest.raises(ValueError, match=f"cannot use --device {name}: "):
        find_device(name)
