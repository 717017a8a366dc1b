"""Folders of images, by class or flat, decoded as a device decodes them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput
from edgeloop.contracts.manifest import InputSpec, Modality
from edgeloop.contracts.preprocess import Grey, Interpolation, Resize
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.input.encoded import IMAGE_SUFFIXES
from edgeloop.runtime.input.images import Image, decode_image
from edgeloop.runtime.input.preprocess import preprocess
from edgeloop.toolchain.data.dataset import image_sizes
from edgeloop.toolchain.data.folders import Listing
from edgeloop.toolchain.data.samples import Samples, require_readable


def read_images(listing: Listing, *, taken: TensorSpec | None) -> Samples:
    """Every image of a listing. taken: the model's input, which they are made to fit; without it they must be of one
    size, and are grey if all of them are.

    Raises Corrupt naming the files that are no images, InvalidInput if sizes differ and no model says which.
    """
    sizes = None if taken is None else image_sizes(taken)
    made, failures = [], []
    for path in listing.files:
        try:
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                raise Corrupt(f"not one of {', '.join(IMAGE_SUFFIXES)}")
            image = decode_image(path.read_bytes(), what=listing.short(path))
        except (Corrupt, InvalidInput, OSError) as error:
            failures.append(_named(listing.short(path), str(error)))
            continue
        made.append(image if sizes is None else _fitted(image, sizes))
    require_readable(failures, len(listing.files), listing.folder)
    if sizes is None:
        _require_one_size(made, listing)
        made = _one_kind(made)
    return Samples(listing.folder.name, np.stack(made), listing.labels, listing.label_names, Modality.IMAGE)


def _named(name: str, reason: str) -> str:
    return reason if name in reason else f"{name} ({reason})"


def _fitted(image: Image, sizes: tuple[int, int, int]) -> Image:
    """Grey and resized by the runtime's own steps, so that a device that is handed the file computes the same."""
    height_px, width_px, channels = sizes
    if channels == 3 and image.ndim == 2:
        image = _colour(image)
    resize = Resize(height_px=height_px, width_px=width_px, interpolation=Interpolation.AREA)
    steps = (Grey(), resize) if channels == 1 else (resize,)
    spec = InputSpec(name="image", modality=Modality.IMAGE, shape=(1, *sizes), layout="nhwc", value_range=(0.0, 255.0))
    pixels = preprocess(image, steps, spec)[0].astype(np.uint8)
    return np.asarray(pixels[:, :, 0] if channels == 1 else pixels)


def _require_one_size(images: list[Image], listing: Listing) -> None:
    first = images[0].shape[:2]
    for image, path in zip(images, listing.files, strict=True):
        if image.shape[:2] != first:
            raise InvalidInput(
                f"images in {listing.folder} differ in size: {listing.short(listing.files[0])} has "
                f"{first[0]}x{first[1]} pixels, {listing.short(path)} {image.shape[0]}x{image.shape[1]}; say which "
                "size to bring them to (a model's input says it; 'edgeloop train' takes --side)"
            )


def _one_kind(images: list[Image]) -> list[Image]:
    if all(image.ndim == 2 for image in images):
        return images
    return [_colour(image) if image.ndim == 2 else image for image in images]


def _colour(image: Image) -> NDArray[np.uint8]:
    return np.repeat(image[:, :, np.newaxis], 3, axis=2)


def is_image_folder(listing: Listing) -> bool:
    """Whether any file of a listing is called like an image."""
    return bool(listing.suffixes() & set(IMAGE_SUFFIXES))


def images_beside_classes(folder: Path) -> list[Path]:
    """Images that lie beside class folders, and so in no class."""
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES)
