"""Folders of WAV files, by class or flat: mono, one sample rate, one length."""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput, Unavailable
from edgeloop.contracts.manifest import Modality
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.data.folders import Listing
from edgeloop.toolchain.data.samples import Samples, require_readable

SOUND_SUFFIX = ".wav"

_LONGEST_S = 1
_SERIES_AXES = 3


def read_sounds(listing: Listing, *, taken: TensorSpec | None) -> Samples:
    """Every WAV of a listing as (N, T, 1) float32 in -1..1, padded with silence or cut at the end to one length.

    T: that of the model's input (1, T, 1); without one, the longest file's, at most one second. Raises Corrupt
    naming the files that are no mono WAV, InvalidInput if sample rates differ.
    """
    made, failures = [], []
    rates: dict[int, str] = {}
    for path in listing.files:
        try:
            rate_hz, sound = _read(path)
        except Corrupt as error:
            failures.append(f"{listing.short(path)} ({error})")
            continue
        rates.setdefault(rate_hz, listing.short(path))
        made.append(sound)
    require_readable(failures, len(listing.files), listing.folder)
    if len(rates) > 1:
        told = ", ".join(f"{name} has {rate_hz:,} Hz" for rate_hz, name in rates.items())
        raise InvalidInput(f"sounds in {listing.folder} differ in sample rate: {told}; resample them to one rate")
    if taken is not None and len(taken.shape) == _SERIES_AXES:
        length = taken.shape[1]
    else:
        length = min(max(len(sound) for sound in made), _LONGEST_S * next(iter(rates)))
    inputs = np.zeros((len(made), length, 1), np.float32)
    for row, sound in zip(inputs, made, strict=True):
        row[: len(sound), 0] = sound[:length]
    return Samples(listing.folder.name, inputs, listing.labels, listing.label_names, Modality.TENSOR)


def _read(path: Path) -> tuple[int, NDArray[np.float32]]:
    """Sample rate in Hz and (T,) in -1..1. Raises Corrupt, without the file's name."""
    if path.suffix.lower() != SOUND_SUFFIX:
        raise Corrupt(f"does not end in {SOUND_SUFFIX}")
    try:
        from scipy.io import wavfile
    except ImportError as error:
        raise Unavailable(
            f"reading WAV files needs SciPy ({error}); install it with: pip install 'edgeloop[toolchain]'"
        ) from error
    try:
        with warnings.catch_warnings():
            # It warns of chunks that it does not know and of files cut short; the second is an error here.
            warnings.filterwarnings("error", message="Reached EOF")
            warnings.filterwarnings("ignore", message="Chunk")
            rate_hz, stored = wavfile.read(path)
    except (ValueError, OSError, EOFError, wavfile.WavFileWarning) as error:
        raise Corrupt(f"no WAV file that can be read: {error}") from error
    if stored.ndim != 1:
        raise Corrupt(f"{stored.shape[1]} channels; expected mono")
    if len(stored) == 0:
        raise Corrupt("holds no sound")
    sound = _real(stored)
    if not np.isfinite(sound).all():
        raise Corrupt("holds NaN or infinity")
    return int(rate_hz), sound


def _real(stored: NDArray[np.generic]) -> NDArray[np.float32]:
    """PCM of 8 (unsigned), 16, 24 and 32 bits, or float, to -1..1; SciPy hands 24 bits over as the upper 24 of 32."""
    if stored.dtype.kind == "f":
        return stored.astype(np.float32)
    half = float(2 ** (8 * stored.dtype.itemsize - 1))
    shifted = stored.astype(np.float64) - (half if stored.dtype.kind == "u" else 0.0)
    return np.asarray(shifted / half, np.float32)
