"""Which way in a bundle's inputs take, by their modality."""

import msgspec

from edgeloop.contracts.manifest import InputSpec, Manifest, Modality
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.input.port import Front


def make_front(manifest: Manifest, tensor: TensorSpec) -> Front:
    """The manifest's preprocessing into this tensor. Raises InvalidInput if a step does not fit the modality, or the
    result the tensor."""
    given = in_layout_of(manifest.input, tensor), manifest.preprocess, tensor
    # Each is imported when it is needed: rows of numbers need no OpenCV, which takes 17 MB.
    if manifest.input.modality is Modality.IMAGE:
        from edgeloop.runtime.input.pixels import PixelFront

        return PixelFront(*given)
    if manifest.input.modality is Modality.SOUND:
        from edgeloop.runtime.input.sound import SoundFront

        return SoundFront(*given)
    if manifest.input.modality is Modality.SERIES:
        from edgeloop.runtime.input.series import SeriesFront

        return SeriesFront(*given)
    from edgeloop.runtime.input.arrays import ArrayFront

    return ArrayFront(*given)


_CHANNELS = {"nhwc": "nchw", "nchw": "nhwc"}


def in_layout_of(spec: InputSpec, tensor: TensorSpec) -> InputSpec:
    """The manifest's input as this variant lays it out: of an image, channels may come first or last.

    Converters between frameworks change that, and the image is the same. A shape that fits both is taken as written.
    """
    other = _CHANNELS.get(spec.layout.lower())
    if spec.modality is not Modality.IMAGE or other is None or tensor.shape == spec.shape:
        return spec
    if len(spec.shape) != len(other):
        return spec  # the front says what is wrong with it
    sizes = dict(zip(spec.layout.lower(), spec.shape, strict=True))
    turned = tuple(sizes[axis] for axis in other)
    return msgspec.structs.replace(spec, layout=other, shape=turned) if tensor.shape == turned else spec
