import pytest
import torch

from gatedvision.metrics import ImageCosts


def test_means_over_images_of_batches_of_any_size():
    metric = ImageCosts()
    metric.process(None, [{"costs": {"fine_share": torch.tensor([0.0, 0.5]), "GMACs": torch.tensor([1.0, 2.0])}}])
    metric.process(None, [{"costs": {"fine_share": torch.tensor([1.0]), "GMACs": torch.tensor([6.0])}}])
    assert metric.evaluate(3) == {"fine_share": 0.5, "GMACs": 3.0}


def test_what_cannot_be_averaged_is_named():
    with pytest.raises(ValueError, match="needs a backbone that tells what each image costs, such as msvit_small"):
        ImageCosts().process(None, [{"logits": torch.zeros(1, 2)}])
    with pytest.raises(ValueError, match="no image was evaluated"):
        ImageCosts().compute_metrics([])
