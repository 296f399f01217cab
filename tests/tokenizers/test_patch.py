"""Patch tokenizers, against strided convolutions."""

import pytest
import torch
from torch.nn import functional as F

from rinvid.registry import tokenizers
from rinvid.tokenizers.base import Tokenizer
from rinvid.tokenizers.patch import Patch2D, Patch3D


def silent_identity(tokenizer: Tokenizer) -> Tokenizer:
    """Both dense layers of a tokenizer become the identity."""
    for layer in (tokenizer.stem, tokenizer.readout):
        torch.nn.init.eye_(layer.weight)
    return tokenizer


@pytest.mark.parametrize("frames", [1, 4, 5, 6])
@pytest.mark.parametrize("patch", [[2, 4, 4], [1, 2, 2], [3, 2, 4]])
def test_video_tokens_are_those_of_a_strided_convolution(patch: list[int], frames: int) -> None:
    torch.manual_seed(0)
    tokenizer = Patch3D(in_channels=3, out_channels=3, dim=8, patch_size=patch)
    clip = torch.randn(2, 3, frames, 8, 8)
    kernel = tokenizer.stem.weight.reshape(8, *patch, 3).movedim(-1, 1)
    padded = F.pad(clip, (0, 0, 0, 0, 0, -frames % patch[0]))  # the END of the time axis
    expected = F.conv3d(padded, kernel, tokenizer.stem.bias, stride=tuple(patch))
    tokens = tokenizer.encode(clip)
    torch.testing.assert_close(tokens, expected.flatten(2).transpose(1, 2))
    t, h, w = tokenizer.grid(frames, 8, 8)
    assert tokens.shape == (2, t * h * w, 8)
    assert (t, h, w) == tuple(expected.shape[2:])
    assert tokenizer.frame_stride == patch[0]


@pytest.mark.parametrize("frames", [4, 5])
def test_decoding_puts_every_pixel_back(frames: int) -> None:
    tokenizer = silent_identity(Patch3D(3, 3, dim=2 * 4 * 2 * 3, patch_size=[2, 4, 2]))
    clip = torch.randn(2, 3, frames, 8, 8)
    decoded = tokenizer.decode(tokenizer.encode(clip), tokenizer.grid(frames, 8, 8))
    assert torch.equal(decoded[:, :, :frames], clip)
    assert decoded.shape[2] == frames + frames % 2
    assert not decoded[:, :, frames:].any()


@pytest.mark.parametrize("patch", [4, [4, 2]])
def test_image_tokens_are_those_of_a_strided_convolution(patch: int | list[int]) -> None:
    torch.manual_seed(0)
    height, width = (patch, patch) if isinstance(patch, int) else patch
    tokenizer = Patch2D(in_channels=3, out_channels=3, dim=8, patch_size=patch)
    image = torch.randn(2, 3, 8, 8)
    kernel = tokenizer.stem.weight.reshape(8, height, width, 3).movedim(-1, 1)
    expected = F.conv2d(image, kernel, tokenizer.stem.bias, stride=(height, width))
    torch.testing.assert_close(tokenizer.encode(image), expected.flatten(2).transpose(1, 2))
    assert tokenizer.grid(1, 8, 8) == (1, 8 // height, 8 // width)
    assert tokenizer.frame_stride == 1


def test_images_decode_without_a_time_axis() -> None:
    tokenizer = silent_identity(Patch2D(3, 3, dim=4 * 2 * 3, patch_size=[4, 2]))
    image = torch.randn(2, 3, 8, 8)
    assert torch.equal(tokenizer.decode(tokenizer.encode(image), tokenizer.grid(1, 8, 8)), image)


def test_input_and_output_channels_may_differ() -> None:
    tokenizer = Patch3D(in_channels=6, out_channels=3, dim=8)
    tokens = tokenizer.encode(torch.randn(2, 6, 4, 8, 8))
    assert tokenizer.decode(tokens, (2, 2, 2)).shape == (2, 3, 4, 8, 8)


def test_frames_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="8x10 do not divide into patches of 4x4"):
        Patch3D(3, 3, 8).grid(4, 8, 10)


@pytest.mark.parametrize("patch", [[4, 4], [2, 0, 4], [2, 4, 4.0]])
def test_bad_patches_are_refused(patch: list[int]) -> None:
    with pytest.raises(ValueError, match="three whole numbers >= 1"):
        Patch3D(3, 3, 8, patch_size=patch)


def test_tokenizers_are_made_by_name() -> None:
    made = tokenizers.create({"type": "patch3d", "patch_size": [2, 2, 2]}, in_channels=3, out_channels=3, dim=8)
    assert isinstance(made, Patch3D)
    assert made.patch == (2, 2, 2)
    with pytest.raises(ValueError, match=r"'patch'.*in_channels, out_channels, dim, patch_size"):
        tokenizers.create({"type": "patch3d", "patch": 2}, in_channels=3, out_channels=3, dim=8)
