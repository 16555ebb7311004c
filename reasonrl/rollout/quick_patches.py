"""Patches of Qwen2-VL's kind without the processor around them: the same numbers, bit for bit, in a tenth of the time.

A processor's checks and copies take longer than the work where pictures are small and many. This reads pictures whose
sides the processor would leave as they are; all others are the processor's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


class QuickPatches:
    """Reads small pictures for one image processor.

    Args:
        images: a `Qwen2VLImageProcessorPil` that resizes, rescales and normalizes.
    """

    def __init__(self, images: Any) -> None:
        self.images = images
        self.patch, self.merge, self.frames = images.patch_size, images.merge_size, images.temporal_patch_size
        levels = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (3, 1, 1))
        shades = images.normalize(images.rescale(levels, images.rescale_factor), images.image_mean, images.image_std)
        #: By channel and level, what a pixel becomes.
        self.shades = np.asarray(shades, dtype=np.float32)[:, :, 0]

    def read(self, pictures: Sequence[Any]) -> dict[str, torch.Tensor] | None:
        """`pixel_values` and `image_grid_thw` of PIL images; None if one of them is not for us."""
        import torch

        if not pictures or not all(self._fits(picture) for picture in pictures):
            return None
        parts = [self._patches(np.asarray(picture)) for picture in pictures]
        grids = [[1, picture.height // self.patch, picture.width // self.patch] for picture in pictures]
        return {
            "pixel_values": torch.from_numpy(np.concatenate(parts)),
            "image_grid_thw": torch.tensor(grids, dtype=torch.long),
        }

    def _fits(self, picture: Any) -> bool:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        if picture.mode != "RGB":
            return False
        limits = self.images.size
        try:
            height, width = smart_resize(
                picture.height,
                picture.width,
                factor=self.patch * self.merge,
                min_pixels=limits["shortest_edge"],
                max_pixels=limits["longest_edge"],
            )
        except ValueError:  # too long for its breadth: the processor says so
            return False
        return bool((height, width) == (picture.height, picture.width))

    def _patches(self, pixels: Any) -> Any:
        """(patches, numbers of a patch) of (height, width, 3) pixels; squares of `merge` patches stand together."""
        high, wide = (side // self.patch for side in pixels.shape[:2])
        shaded = np.stack([self.shades[channel][pixels[:, :, channel]] for channel in range(3)])
        cut = shaded.reshape(
            3, high // self.merge, self.merge, self.patch, wide // self.merge, self.merge, self.patch
        ).transpose(1, 4, 2, 5, 0, 3, 6)
        still = np.broadcast_to(cut[:, :, :, :, :, None], (*cut.shape[:5], self.frames, *cut.shape[5:]))
        return still.reshape(high * wide, -1)


def quick_patches(processor: Any) -> QuickPatches | None:
    """What reads small pictures for a processor; None where its image processor is another, or set otherwise."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    images = getattr(processor, "image_processor", None)
    if type(images) is not Qwen2VLImageProcessorPil:
        return None
    plain = all(getattr(images, name) is True for name in ("do_resize", "do_rescale", "do_normalize"))
    return QuickPatches(images) if plain else None
