import numpy as np
import pytest

from gatedvision.data import UnreadableImageError, read_volume
from tests.data.volume_files import SPACING, draw, write_nifti


def test_orientation_and_single_axes_do_not_show(tmp_path):
    values, _ = draw()
    write_nifti(tmp_path / "a.nii.gz", values)
    write_nifti(tmp_path / "b.nii", values, flip=True)
    write_nifti(tmp_path / "c.nii", values[..., None])
    for name in ("a.nii.gz", "b.nii", "c.nii"):
        volume = read_volume(tmp_path / name)
        np.testing.assert_array_equal(volume.values, values)
        assert volume.spacing == SPACING


def test_bad_arrays_are_named(tmp_path):
    values, _ = draw()
    scan = tmp_path / "a.npz"
    for content, message in (
        ({"a": values, "b": values}, "it holds the arrays a, b; call one of them 'volume'"),
        ({"volume": values[:0]}, r"at least one voxel, this one is \(0, 9, 10\)"),
        ({"volume": values[0]}, r"this one is \(9, 10\)"),
        ({"volume": values.astype(str)}, "its values are of type <U.*, and not numbers"),
        ({"volume": np.array([None])}, "cannot read volume '.*a.npz': Object arrays cannot be loaded"),
        ({"volume": values, "spacing": np.array([1.0, 0.0, 1.0])}, r"its spacing \(1.0, 0.0, 1.0\) is not three"),
    ):
        np.savez(scan, **content)
        with pytest.raises(UnreadableImageError, match=message):
            read_volume(scan)
    with pytest.raises(UnreadableImageError, match="cannot read volume '.*missing.npy': .*No such file"):
        read_volume(tmp_path / "missing.npy")
