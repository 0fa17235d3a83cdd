import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gatedvision.data import RandomPatch, UnreadableImageError, VolumeFolder, collate_label_maps
from tests.data.volume_files import SPACING, draw, write_nifti, write_numpy

CLASSES = ("background", "liver", "spleen")


@pytest.fixture
def scans(tmp_path) -> Path:
    values, labels = draw()
    write_nifti(tmp_path / "scans" / "a.nii.gz", values)
    write_nifti(tmp_path / "labels" / "a.nii.gz", labels)
    return tmp_path


def open_folder(folder: Path, **options) -> VolumeFolder:
    return VolumeFolder(folder / "scans", folder / "labels", CLASSES, **options)


def test_a_sample_of_nifti(scans):
    [sample] = [*open_folder(scans)]
    values, labels = draw()
    assert sample["inputs"].shape == (1, 8, 9, 10) and sample["inputs"].dtype == torch.float32
    assert abs(sample["inputs"].mean()) < 1e-6 and sample["inputs"].std(correction=0) == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(sample["labels"], labels)
    assert sample["name"] == "a" and sample["spacing"] == SPACING
    raw = open_folder(scans, intensity={"mode": "none"})[0]["inputs"]
    np.testing.assert_array_equal(raw[0], values)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_numpy_files_need_no_nibabel(tmp_path, suffix, monkeypatch):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    values, labels = draw()
    others = {"spacing": np.array(SPACING)} if suffix == ".npz" else {}
    write_numpy(tmp_path / "scans" / f"a{suffix}", values, **others)
    write_numpy(tmp_path / "labels" / f"a{suffix}", labels)
    sample = open_folder(tmp_path, label_suffix=suffix)[0]
    assert sample.get("spacing") == (SPACING if suffix == ".npz" else None)
    assert open_folder(tmp_path, label_suffix=suffix, spacing=(2, 2, 2))[0]["spacing"] == (
        SPACING if suffix == ".npz" else (2, 2, 2)
    )
    np.testing.assert_array_equal(sample["labels"], labels)


def test_names_with_endings_of_their_own(scans):
    (scans / "scans" / "a.nii.gz").rename(scans / "scans" / "a_0000.nii.gz")
    with pytest.raises(FileNotFoundError, match="1 of 1 images in '.*' have no labels, the first '.*a_0000.nii.gz'"):
        open_folder(scans)
    assert open_folder(scans, image_suffix="_0000.nii.gz")[0]["name"] == "a"


def test_resampling_keeps_places(scans):
    labels = np.zeros((8, 9, 10), dtype=np.uint8)
    labels[2:6, 3:6, 4:8] = 1
    write_nifti(scans / "labels" / "a.nii.gz", labels)
    write_nifti(scans / "scans" / "a.nii.gz", labels.astype(np.float32) * 100)
    sample = open_folder(scans, resample=1.0, intensity={"mode": "none"})[0]
    assert sample["labels"].shape == (8, 18, 30) and sample["spacing"] == (1, 1, 1)
    assert sample["labels"].sum() == 4 * 6 * 12 and sample["labels"][2:6, 6:12, 12:24].all()
    assert ((sample["inputs"][0] > 40) == sample["labels"].bool()).all()
    coarse = open_folder(scans, resample=(2, 2, 3))[0]
    assert coarse["labels"].shape == (4, 9, 10) and coarse["labels"][1:3, 3:6, 4:8].all()


def test_patches_batches_and_what_is_kept(scans):
    values, labels = draw((12, 9, 10))
    write_nifti(scans / "scans" / "b.nii.gz", values)
    write_nifti(scans / "labels" / "b.nii.gz", labels)
    dataset = open_folder(scans, patch=dict(type=RandomPatch, size=(6, 6, 12), foreground=1.0), keep=True)
    first = dataset[0]
    (scans / "scans" / "a.nii.gz").unlink()
    batch = collate_label_maps([dataset[0], first])
    assert batch["inputs"].shape == (2, 1, 6, 6, 12) and batch["labels"].shape == (2, 6, 6, 12)
    assert batch["spacings"] == [SPACING, SPACING]
    # Ten of the twelve are there.
    assert (batch["labels"][..., 0] == 255).all() and (batch["labels"][..., 1] < 255).all()
    whole = collate_label_maps([open_folder(scans, keep=True)[0]])
    assert "spacings" in whole


def test_bad_volumes_and_options_are_named(scans, monkeypatch):
    values, labels = draw()
    scan, target = scans / "scans" / "a.nii.gz", scans / "labels" / "a.nii.gz"

    def fails_with(message: str, error: type[Exception] = ValueError, **options) -> None:
        with pytest.raises(error, match=message) as caught:
            open_folder(scans, **options)[0]
        assert "\n" not in str(caught.value)

    fails_with("resample must be three positive lengths in mm, got -1", resample=-1)
    fails_with(r"spacing must be three positive lengths in mm, got \(1, 1\)", spacing=(1, 1))
    for part, array in (("scans", values), ("labels", labels)):
        write_numpy(scans / "arrays" / part / "a.npz", array)
    with pytest.raises(ValueError, match="does not say its spacing, so it cannot be resampled: give spacing="):
        open_folder(scans / "arrays", label_suffix=".npz", resample=2)[0]
    write_nifti(target, labels + 4)
    fails_with(r"label 5 at voxel \(0, 0, \d\) of '.*a.nii.gz' is none of the classes 0\.\.2 nor ignored")
    write_nifti(target, labels * 0.5)
    fails_with("labels '.*' hold 0.5; a label map has whole numbers")
    write_nifti(target, labels[1:])
    fails_with(r"volume '.*' is of \(8, 9, 10\) voxels, its labels '.*' of \(7, 9, 10\)")
    write_nifti(target, labels, (1, 1, 1))
    fails_with(r"voxels of '.*' are \(1.0, 2.0, 3.0\) mm, of its labels '.*' \(1.0, 1.0, 1.0\) mm")
    write_nifti(target, labels)
    write_nifti(scan, np.full((8, 9, 10), np.inf, dtype=np.float32))
    fails_with("volume '.*a.nii.gz': 720 of 720 values are infinite or NaN")
    write_nifti(scan, np.zeros((4, 4, 4, 2), dtype=np.float32))
    fails_with(r"a volume has three axes of at least one voxel, this one is \(4, 4, 4, 2\)", UnreadableImageError)
    write_nifti(scan, values)
    content = scan.read_bytes()
    scan.write_bytes(content[: len(content) // 2])
    fails_with("cannot read volume '.*a.nii.gz': ", UnreadableImageError)
    # A block of a kind that compression does not have.
    scan.write_bytes(content[:10] + b"\xff" * 40 + content[50:])
    fails_with("cannot read volume '.*a.nii.gz': ", UnreadableImageError)
    scan.write_text("junk")
    fails_with("cannot read volume '.*a.nii.gz': ", UnreadableImageError)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    fails_with(r"'.*a.nii.gz' is read by nibabel, .*: pip install 'gatedvision\[medical\]'", ModuleNotFoundError)
