"""A processor that reads the same images once: what it makes of them is kept, by their pixels.

Engine and trainer ask the same reader (`reader_of(processor)`), so a prompt's images are processed once a step however
many samples are drawn of it and however often the trainer passes over them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from reasonrl.rollout.quick_patches import quick_patches

if TYPE_CHECKING:
    import torch

#: Inputs that have one number a token; every other input of a processor belongs to the images.
TOKEN_INPUTS = ("token_type_ids", "mm_token_type_ids")
_TEXT_INPUTS = ("input_ids", "attention_mask", *TOKEN_INPUTS)
#: Bytes of processed images that are kept between two uses.
KEPT_BYTES = 1 << 30


def placeholder_text(processor: Any, images: int) -> str:
    """A text that holds nothing but this many images."""
    return str(getattr(processor, "boi_token", None) or processor.image_token) * images


@dataclass(frozen=True)
class Features:
    """What a processor makes of one prompt's images.

    Attributes:
        inputs: of the model, such as `pixel_values`, `image_grid_thw`; without a dimension for the prompt, except
            where the processor itself makes one (Idefics3).
        tokens: how many image tokens stand for them.
    """

    inputs: dict[str, torch.Tensor]
    tokens: int


class ImageReader:
    """Images to inputs of a model, each set of images once.

    Args:
        processor: of a vision-language model.
        kept_bytes: size of processed images that are kept; the latest used stay.
    """

    def __init__(self, processor: Any, kept_bytes: int = KEPT_BYTES) -> None:
        self.processor, self.kept_bytes = processor, kept_bytes
        self._kept: OrderedDict[tuple[bytes, ...], tuple[Features, dict[str, tuple[int, ...]]]] = OrderedDict()
        self._bytes = 0
        self._used: set[tuple[bytes, ...]] = set()  # since the last `end_step`
        self._lock = threading.Lock()
        self._quick = quick_patches(processor)
        #: Times that images were processed.
        self.reads = 0

    @property
    def kept(self) -> int:
        """How many sets of images are kept."""
        return len(self._kept)

    def read(self, images: Sequence[Any], digests: tuple[bytes, ...]) -> Features:
        """The features of some PIL images that stand in one prompt, in their order; `digests` tell them apart."""
        with self._lock:
            if digests in self._kept:
                self._use(digests)
                return self._kept[digests][0]
            quick = self._quick.read(images) if self._quick is not None else None
            if quick is not None:
                self.reads += 1
                square = int(self.processor.image_processor.merge_size) ** 2
                features = Features(quick, int(quick["image_grid_thw"].prod(dim=1).sum()) // square)
                self._keep(digests, features)
                return features
            return self._process(placeholder_text(self.processor, len(images)), images, digests, {})[0]

    def prompt_ids(
        self, text: str, images: Sequence[Any], digests: tuple[bytes, ...], options: dict[str, Any]
    ) -> tuple[tuple[int, ...], Features]:
        """The tokens of a prompt with images, and their features; `options` go to the tokenizer."""
        with self._lock:
            if digests in self._kept and text in self._kept[digests][1]:
                self._use(digests)
                features, known = self._kept[digests]
                return known[text], features
            features, ids = self._process(text, images, digests, options)
            self._kept[digests][1][text] = ids
            return ids, features

    def _process(
        self, text: str, images: Sequence[Any], digests: tuple[bytes, ...], options: dict[str, Any]
    ) -> tuple[Features, tuple[int, ...]]:
        made = self.processor(text=[text], images=[list(images)], return_tensors="pt", **options)
        self.reads += 1
        ids = tuple(int(token) for token in made["input_ids"][0])
        inputs = {name: value for name, value in made.items() if name not in _TEXT_INPUTS}
        features = Features(inputs, ids.count(self.processor.image_token_id))
        if digests not in self._kept:
            self._keep(digests, features)
        return features, ids

    def end_step(self) -> None:
        """Lets go of the images that were not used since the last call: those of later steps are mostly others, and
        a run's memory stays level. What was drawn ahead in this step is there in the next.
        """
        with self._lock:
            for digests in [digests for digests in self._kept if digests not in self._used]:
                self._bytes -= _bytes_of(self._kept.pop(digests)[0])
            self._used.clear()

    def _use(self, digests: tuple[bytes, ...]) -> None:
        self._kept.move_to_end(digests)
        self._used.add(digests)

    def _keep(self, digests: tuple[bytes, ...], features: Features) -> None:
        self._kept[digests] = (features, {})
        self._use(digests)
        self._bytes += _bytes_of(features)
        while self._bytes > self.kept_bytes and len(self._kept) > 1:
            _, (oldest, _) = self._kept.popitem(last=False)
            self._bytes -= _bytes_of(oldest)

    def token_inputs(self, ids: Sequence[int]) -> dict[str, torch.Tensor]:
        """(tokens,) inputs that say of each token of a prompt whether it stands for an image, under the names that the
        model takes; none where it takes none.
        """
        import torch

        names = [name for name in TOKEN_INPUTS if name in self._names()]
        if not names:
            return {}
        kinds = torch.tensor(self.processor.create_mm_token_type_ids([list(ids)])[0], dtype=torch.long)
        return dict.fromkeys(names, kinds)

    def _names(self) -> frozenset[str]:
        """Inputs that the processor makes of a text."""
        if not hasattr(self, "_made"):
            from PIL import Image

            blank = Image.new("RGB", (64, 64))
            self._made = frozenset(self.processor(text=[placeholder_text(self.processor, 1)], images=[[blank]]))
        return self._made


def _bytes_of(features: Features) -> int:
    return sum(value.numel() * value.element_size() for value in features.inputs.values())


def join_inputs(given: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The image inputs of several prompts as those of a batch, in the order of the prompts; prompts without images
    give none. Where shapes differ beyond the first dimension (Idefics3: tiles), they are filled up with zeros.
    """
    import torch

    joined: dict[str, torch.Tensor] = {}
    for name in dict.fromkeys(name for inputs in given for name in inputs if name not in TOKEN_INPUTS):
        parts = [inputs[name] for inputs in given if name in inputs]
        shape = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
        if any(list(part.shape[1:]) != shape for part in parts):
            parts = [_filled(part, shape) for part in parts]
        joined[name] = torch.cat(parts)
    return joined


def batch_inputs(given: Sequence[dict[str, torch.Tensor]], ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the models take for the pictures of some samples beside their padded token ids, (b, L); of inputs with one
    number a token, `given` has those of the prompts.
    """
    import torch

    inputs = {name: value.to(ids.device) for name, value in join_inputs(given).items()}
    for name in dict.fromkeys(name for one in given for name in one if name in TOKEN_INPUTS):
        # A response holds no image, and padding neither.
        whole = torch.zeros_like(ids)
        for place, one in enumerate(given):
            if name in one:
                whole[place, : len(one[name])] = one[name].to(ids.device)
        inputs[name] = whole
    return inputs


def _filled(part: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    whole = part.new_zeros((part.shape[0], *shape))
    whole[tuple(slice(0, size) for size in part.shape)] = part
    return whole


_READERS: WeakKeyDictionary[Any, ImageReader] = WeakKeyDictionary()


def reader_of(processor: Any) -> ImageReader:
    """The one reader of a processor: whoever asks gets the same."""
    if processor not in _READERS:
        _READERS[processor] = ImageReader(processor)
    return _READERS[processor]
