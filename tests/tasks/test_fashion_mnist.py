import pytest
import torch
from torch.utils.data import DataLoader, Subset

from compression_gate.errors import DataError
from compression_gate.tasks.fashion_mnist import CLASSES, Images, Net, load
from compression_gate.tasks.fashion_mnist_files import locate

COUNTS = {"train": 60_000, "test": 10_000}


@pytest.fixture(name="images")
def some_images():
    pixels = torch.arange(6 * 28 * 28).remainder(256).to(torch.uint8).reshape(6, 28, 28)
    return Images(pixels, torch.tensor([3, 1, 4, 1, 5, 9], dtype=torch.uint8), split="train", classes=CLASSES)


@pytest.fixture(name="complete", scope="module")
def whether_the_data_are_here():
    try:
        return locate()
    except DataError as error:
        pytest.skip(str(error))


def test_net_has_the_parameters_it_says():
    assert sum(parameter.numel() for parameter in Net().parameters()) == 315_146


def test_net_maps_images_to_logits_of_every_class():
    assert Net()(torch.zeros(2, 1, 28, 28)).shape == (2, len(CLASSES))


def test_images_are_float_in_0_to_1_with_a_channel_axis(images):
    image, label = images[2]
    assert (image.shape, image.dtype, type(label), label) == ((1, 28, 28), torch.float32, int, 4)
    torch.testing.assert_close(image[0] * 255, images.pixels[2].float())


def test_images_at_once_are_those_one_by_one(images):
    at_once = images.__getitems__([4, 0])
    assert [label for _, label in at_once] == [5, 3]
    assert all(torch.equal(image, images[index][0]) for (image, _), index in zip(at_once, [4, 0], strict=True))


def test_images_pass_through_a_subset_and_a_loader(images):
    batch, labels = next(iter(DataLoader(Subset(images, [5, 1]), batch_size=2)))
    assert batch.shape == (2, 1, 28, 28)
    assert labels.tolist() == [9, 1]


def test_images_handed_out_are_not_the_stored_ones(images):
    """Who changes an example in place, as an augmentation may, does not change the data."""
    before = images.pixels.clone()
    images[0][0].zero_()
    images.__getitems__([1, 2])[0][0].zero_()
    assert torch.equal(images.pixels, before)


def test_ids_are_unique_and_name_the_split(images):
    assert images.ids == [f"train:{index}" for index in range(6)]


@pytest.mark.parametrize("split", ["validation", "calibration", "holdout", "tets"])
def test_load_leaves_other_splits_to_the_caller(split):
    with pytest.raises(KeyError, match=split):
        load(split)


def test_load_names_a_folder_without_the_files(tmp_path):
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte: expected it"):
        load("test", folder=str(tmp_path))


@pytest.mark.parametrize("split", COUNTS)
def test_load_returns_the_complete_balanced_split(complete, split):
    data = load(split, folder=str(complete))
    assert len(data) == COUNTS[split]
    assert torch.bincount(data.labels.long()).tolist() == [COUNTS[split] // 10] * 10
    assert data.pixels.dtype == torch.uint8
