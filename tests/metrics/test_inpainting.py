import json
import sys

import numpy as np
import pytest
import torch
import torchvision
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn

from gatedvision.metrics import InpaintingMetrics
from gatedvision.metrics.inpainting import frechet_distance, load_inception, load_lpips


def draw_samples(shares=(0.05, 0.15, 0.17, 0.45, 0.7), size: int = 40) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    samples = []
    for share in shares:
        image = torch.randint(256, (3, size, size), dtype=torch.uint8, generator=generator)
        mask = torch.zeros(1, size * size, dtype=torch.bool)
        mask[:, : round(share * size * size)] = True
        mask = mask.view(1, size, size)
        noise = torch.randint(-20, 20, image.shape, generator=generator)
        completed = torch.where(mask, (image.int() + noise).clamp(0, 255).byte(), image)
        samples.append({"image": image, "completed": completed, "mask": mask})
    return samples


def evaluate(metric: InpaintingMetrics, samples: list[dict[str, Tensor]]) -> dict[str, float]:
    metric.process(None, samples[:2])
    metric.process(None, samples[2:])
    return metric.evaluate(len(samples))


class Distance(nn.Module):
    """A distance that shows what it is given."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        assert x.shape == y.shape == (1, 3, 40, 40) and x.amin() >= -1 and 0.9 < x.amax() <= 1
        return (x - y).abs().amax().view(1, 1, 1, 1)


class Moments(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        return images.float().mean((2, 3))


def test_all_images_and_those_of_each_bin_are_averaged():
    samples = draw_samples()
    found = evaluate(InpaintingMetrics(lpips=Distance()), samples)
    rows = []
    for sample in samples:
        image, completed = (sample[key].permute(1, 2, 0).numpy() for key in ("image", "completed"))
        rows.append(
            {
                "L1": 100 * np.abs(image.astype(float) - completed).mean() / 255,
                "PSNR": peak_signal_noise_ratio(image, completed),
                "SSIM": structural_similarity(
                    image, completed, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
                ),
                "LPIPS": 2 * np.abs(image.astype(float) - completed).max() / 255,
            }
        )
    members = {"": range(5), "/0.01-0.10": [0], "/0.10-0.20": [1, 2], "/0.40-0.50": [3]}
    assert found.keys() == {f"{name}{part}" for part in members for name in rows[0]}
    for part, indices in members.items():
        for name in rows[0]:
            # skimage leaves out half a window at the border, where we take a mirrored image.
            tolerance = {"rel": 0.02} if name == "SSIM" else {"rel": 1e-5}
            expected = np.mean([rows[index][name] for index in indices])
            assert found[f"{name}{part}"] == pytest.approx(expected, **tolerance), name
    json.dumps(found, allow_nan=False)


def test_perfect_images_have_a_finite_score():
    [sample] = draw_samples((0.15,))
    found = evaluate(InpaintingMetrics(), [{**sample, "completed": sample["image"]}])
    assert (found["L1"], found["PSNR"], found["SSIM"]) == (0.0, 100.0, 1.0)
    with pytest.raises(ValueError, match="no image was evaluated"):
        InpaintingMetrics().compute_metrics([])


def test_neither_order_nor_company_of_the_images_shows():
    samples = draw_samples()
    first = evaluate(InpaintingMetrics(lpips=Distance(), fid=Moments()), samples)
    metric = InpaintingMetrics(lpips=Distance(), fid=Moments())
    for sample in reversed(samples):
        metric.process(None, [sample])
    second = metric.compute_metrics(metric.results)
    assert {name: value for name, value in second.items() if "FID" not in name} == {
        name: value for name, value in first.items() if "FID" not in name
    }
    assert second["FID"] == pytest.approx(first["FID"], rel=1e-6)
    # A bin of one image has no spread.
    assert "FID/0.10-0.20" in first and "FID/0.01-0.10" not in first


def test_the_frechet_distance_is_the_formula():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(50, 2, 1, dtype=torch.float64, generator=generator) * torch.tensor([[[2.0], [3.0]]]) + 1
    one, other = features[:, 0, 0], features[:, 1, 0]
    expected = (one.mean() - other.mean()) ** 2 + (one.std() - other.std()) ** 2
    assert frechet_distance(features) == pytest.approx(float(expected), rel=1e-6)


def test_networks_of_torchvision_carry_lpips(tmp_path):
    torch.manual_seed(0)
    for name in ("squeezenet1_1", "alexnet"):
        network: nn.Module = getattr(torchvision.models, name)(weights=None).eval()
        path = tmp_path / f"{name}.pth"
        torch.save({key: value for key, value in network.state_dict().items() if key.startswith("features.")}, path)
        lpips = load_lpips(path)
        image = torch.rand(1, 3, 64, 64) * 2 - 1
        seen = {}
        network.features.register_forward_hook(
            lambda module, inputs, output, seen=seen: seen.setdefault("last", output)
        )
        network.features(lpips.scaling_layer(image))
        # The features are those of torchvision's network.
        last = lpips.net(lpips.scaling_layer(image))[-1]
        expected = seen["last"]
        if name == "alexnet":
            last = nn.functional.max_pool2d(last, 3, 2)
        torch.testing.assert_close(last, expected)
        assert float(lpips(image, image)) == 0 < float(lpips(image, -image))
    metric = InpaintingMetrics(lpips=path)
    assert evaluate(metric, draw_samples((0.15, 0.2), size=64))["LPIPS"] > 0


def test_missing_weights_are_said_once_and_wrong_ones_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEDVISION_DATA", str(tmp_path))
    lines: list[str] = []
    monkeypatch.setattr("gatedvision.metrics.inpainting.print_log", lambda message, *_: lines.append(message))
    metric = InpaintingMetrics(lpips="$GATEDVISION_DATA/weights/alexnet.pth", fid=tmp_path / "inception.pth")
    found = evaluate(metric, draw_samples())
    assert not any("LPIPS" in name or "FID" in name for name in found)
    assert lines == [
        f"no LPIPS: there is no file '{tmp_path}/weights/alexnet.pth' of weights; see lpips of InpaintingMetrics",
        f"no FID: there is no file '{tmp_path}/inception.pth' of weights; see fid of InpaintingMetrics",
    ]
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"cannot read the weights '.*text.pth'"):
        InpaintingMetrics(lpips=tmp_path / "text.pth")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match=r"holds no weights of torchvision's alexnet, vgg16 or squeezenet1_1"):
        InpaintingMetrics(lpips=tmp_path / "resnet.pth")
    torch.save({"features.10.weight": torch.zeros(1)}, tmp_path / "half.pth")
    with pytest.raises(ValueError, match=r"half.pth' lacks features.0.weight of the network of LPIPS"):
        InpaintingMetrics(lpips=tmp_path / "half.pth")
    with pytest.raises(ModuleNotFoundError, match="orch-fidelity"):
        load_inception(tmp_path / "resnet.pth")


def test_settings_without_sense_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="bins must be ranges of shares between 0 and 1"):
        InpaintingMetrics(bins=((0.2, 0.1),))
    assert InpaintingMetrics(bins=[[0.1, 0.2]]).bins == ((0.1, 0.2),)
    monkeypatch.setitem(sys.modules, "torchmetrics.functional", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'gatedvision\[inpainting\]'"):
        InpaintingMetrics()
