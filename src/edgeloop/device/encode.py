"""An input as the bytes in which it goes up, and before that how many these will be.

What was read as a file goes up as it is. Arrays are encoded: pictures of up to 16,384 pixels as PNG, larger ones as
JPEG of quality 90; sounds as WAV; series as CSV; all else as .npy. All but JPEG give the same input again, bit by bit.
Rule kept here: nothing is encoded to find out its size. Neighbour: `select` spends bytes on what is sent.
"""

from typing import TYPE_CHECKING, Any

import msgspec

from edgeloop.contracts.manifest import InputSpec, Modality

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeloop.runtime.input.port import Source

JPEG_QUALITY = 90
MOST_PNG_PIXELS = 128 * 128

_HEAD_BYTES = 128
# Bytes for each number, before the first input is encoded. Measured: photos of 640x480 take 0.06 to 0.12, of 96x96 0.60
# to 0.80; readings with three decimals 6.5.
_FIRST_GUESS = {"image/jpeg": 0.1, "image/png": 0.65, "text/csv": 7.0}
_NEW_SHARE = 0.2


class Encoded(msgspec.Struct, frozen=True):
    """An input as bytes. media: their MIME type."""

    media: str
    data: bytes


class Encoder:
    """Encodes the inputs of one device; learns how large they become."""

    def __init__(self) -> None:
        self._bytes_a_number = dict(_FIRST_GUESS)

    def size_bytes(self, data: "Source", spec: InputSpec) -> int:
        """How many bytes this input will be: exact of files, nearly of sounds and .npy; else its numbers times what the
        numbers of earlier inputs of its kind became, a moving average."""
        if isinstance(data, bytes):
            return len(data)
        array = _array(data)
        media = _media_of(array, spec)
        if media not in self._bytes_a_number:
            return _HEAD_BYTES + int(array.nbytes)
        return _HEAD_BYTES + round(array.size * self._bytes_a_number[media])

    def encode(self, data: "Source", media: str, spec: InputSpec) -> Encoded:
        """The input's bytes. media: of bytes, what they are.

        data: what a Predictor of this spec has answered.
        """
        if isinstance(data, bytes):
            return Encoded(media, data)
        array = _array(data)
        made = Encoded(_media_of(array, spec), _bytes_of(array, spec))
        before = self._bytes_a_number.get(made.media)
        if before is not None and array.size:
            found = max(0.0, (len(made.data) - _HEAD_BYTES) / array.size)
            self._bytes_a_number[made.media] = before + _NEW_SHARE * (found - before)
        return made


def _array(data: "Source") -> "NDArray[Any]":
    import numpy as np  # late: an agent without a model has not loaded it

    assert isinstance(data, np.ndarray), "sources hand over bytes and arrays"
    return data


def _media_of(array: "NDArray[Any]", spec: InputSpec) -> str:
    if spec.modality is Modality.IMAGE:
        return "image/png" if array.shape[0] * array.shape[1] <= MOST_PNG_PIXELS else "image/jpeg"
    if spec.modality is Modality.SOUND:
        return "audio/wav"
    return "text/csv" if spec.modality is Modality.SERIES else "application/x-npy"


def _bytes_of(array: "NDArray[Any]", spec: InputSpec) -> bytes:
    media = _media_of(array, spec)
    if media.startswith("image/"):
        from edgeloop.runtime.input.images import as_image, encode_jpeg, encode_png

        image = as_image(array)
        return encode_png(image) if media == "image/png" else encode_jpeg(image, quality=JPEG_QUALITY)
    if media == "audio/wav":
        from edgeloop.runtime.input.wav import encode_wav

        assert spec.rate_hz is not None, "a bundle without a rate takes no sound"
        return encode_wav(array, spec.rate_hz)
    if media == "text/csv":
        from edgeloop.runtime.input.table import encode_rows

        return encode_rows(array, channels=spec.channels)
    from edgeloop.bundle.arrays import to_npy

    return to_npy(array)
