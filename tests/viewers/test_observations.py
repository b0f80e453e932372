"""Pictures and texts of observations."""

import struct
import zlib

import numpy as np
import pytest
import torch

from alfish.viewers.observations import observation_text, picture_of, png, shrunk


def read_png(data):
    """The image of a PNG file that uses the filters 0 and 2 only."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + content)
        chunks[kind], at = content, at + 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert depth == 8
    assert rest == [0, 0, 0]
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    image = np.zeros((height, lines.shape[1] - 1), np.uint8)
    for row, (line_filter, *line) in enumerate(lines.tolist()):
        above = image[row - 1] if line_filter == 2 and row else 0
        image[row] = (np.array(line) + above) % 256
    return image if colour == 0 else image.reshape(height, width, 3)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (5, 7, 3), (84, 84), (1, 300, 3)])
@pytest.mark.parametrize("smooth", [True, False])
def test_png_holds_the_image(shape, smooth):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    if smooth:
        image = np.cumsum(image % 2, axis=0).astype(np.uint8)
    np.testing.assert_array_equal(read_png(png(image)), image)


@pytest.mark.parametrize("image", [np.zeros((2, 2)), np.zeros((2, 2, 4), np.uint8), np.zeros((0, 2), np.uint8)])
def test_png_refuses_what_is_no_image(image):
    with pytest.raises(ValueError, match="expected uint8 .H, W. or .H, W, 3."):
        png(image)


@pytest.mark.parametrize(
    ("shape", "frame"),
    [
        ((1, 19, 18), lambda image: image[0]),
        ((4, 19, 18), lambda image: image[3]),
        ((3, 19, 18), lambda image: image.transpose(1, 2, 0)),
        ((12, 19, 18), lambda image: image[9:].transpose(1, 2, 0)),
        ((19, 18, 3), lambda image: image),
        ((19, 18, 4), lambda image: image[:, :, 3]),
        ((19, 18, 1), lambda image: image[:, :, 0]),
        ((19, 18), lambda image: image),
        ((2, 19, 18, 3), lambda image: image[1]),
        ((2, 19, 18, 1), lambda image: image[1, :, :, 0]),
    ],
)
def test_the_newest_frame_is_the_picture(shape, frame):
    image = torch.randint(0, 256, shape, dtype=torch.uint8)
    picture = picture_of({"speed": torch.zeros(2), "view": image})
    np.testing.assert_array_equal(picture, frame(image.numpy()))


@pytest.mark.parametrize("shape", [(5,), (1, 5), (), (2, 0, 3)])
def test_what_is_no_image_gives_no_picture(shape):
    assert picture_of(torch.zeros(shape, dtype=torch.uint8)) is None


def test_only_bytes_are_a_picture():
    assert picture_of(torch.zeros((3, 9, 8))) is None
    assert picture_of(torch.zeros((3, 9, 8), dtype=torch.bool)) is None


def test_large_pictures_shrink_by_a_whole_number():
    image = np.repeat(np.arange(0, 200, 2, dtype=np.uint8), 10)[None].repeat(40, axis=0)
    small = shrunk(image, 100)
    assert small.shape == (4, 100)
    np.testing.assert_array_equal(small[0], np.arange(0, 200, 2))
    assert shrunk(image, 1000) is image
    assert shrunk(np.full((401, 601, 3), 7, np.uint8), 320).tolist() == np.full((200, 300, 3), 7).tolist()
    assert shrunk(np.full((1, 500), 7, np.uint8), 100).tolist() == [[7] * 100]


def test_short_observations_are_written_out():
    assert observation_text(torch.tensor([-0.25, 1.0])) == "[-0.25, 1.]"
    assert observation_text({"b": torch.tensor(3), "a": torch.zeros(2)}) == "a [0., 0.], b 3"
    assert observation_text(torch.zeros(65)) == ""
