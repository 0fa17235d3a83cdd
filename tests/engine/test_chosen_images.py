import pytest

from gatedvision.engine.chosen_images import choose_images


class Numbered:
    """Images without names."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict:
        return {"inputs": index}


class Named(Numbered):
    def __getitem__(self, index: int) -> dict:
        return {"inputs": index, "name": f"val_{index}"}


class Files(Numbered):
    samples = [(f"folder/{letter}.jpg", 0) for letter in "abcdefghij"]


class Volumes(Numbered):
    samples = [("image.nii", "labels.nii", f"case_{number}") for number in range(10)]


@pytest.mark.parametrize(
    ("dataset", "first", "sixth"),
    [
        (Numbered(), "00000", "00005"),
        (Named(), "val_0", "val_5"),
        (Files(), "a", "f"),
        (Volumes(), "case_0", "case_5"),
    ],
    ids=["numbers", "names", "files", "volumes"],
)
def test_spread_over_the_data_or_by_name(dataset, first, sixth):
    assert choose_images(dataset, 2, None) == [(first, 0), (sixth, 5)]
    assert choose_images(dataset, 1, [sixth, first]) == [(sixth, 5), (first, 0)]
    assert [index for _, index in choose_images(dataset, 99, None)] == list(range(10))


def test_a_name_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no image 'z' in the test data; they are called like 'a'"):
        choose_images(Files(), 1, ["z"])
