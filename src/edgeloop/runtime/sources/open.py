"""The source that a person named: a camera, a URL, a video, a folder, a file, standard input, an iterator."""

import math
import os
import re
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput, NotFound
from edgeloop.contracts.manifest import InputSpec, Modality
from edgeloop.contracts.preprocess import Step
from edgeloop.runtime.input.port import Source
from edgeloop.runtime.sources.capture import open_camera, open_video
from edgeloop.runtime.sources.files import Descriptor, Folder, OneFile
from edgeloop.runtime.sources.items import Items
from edgeloop.runtime.sources.live import LiveVideo, Patience
from edgeloop.runtime.sources.pictures import PictureCut
from edgeloop.runtime.sources.port import Cut, FrameSource, Reader
from edgeloop.runtime.sources.sounds import SoundCut
from edgeloop.runtime.sources.stream import Stream
from edgeloop.runtime.sources.tables import SeriesCut, TensorCut
from edgeloop.runtime.sources.video import VIDEO_SUFFIXES, VideoFile

STANDARD_INPUT = "-"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_LIVE_SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https")
_FILE_OPEN_S = 30.0
_PATIENCE = Patience()


def open_source(
    source: Source | int | Iterable[Source],
    spec: InputSpec,
    steps: tuple[Step, ...],
    *,
    follow: bool = False,
    rate_hz: float = 0.0,
) -> FrameSource:
    """What a person names as a stream of the inputs that a bundle takes.

    source: for images a URL (rtsp, http, ...), a camera's number or device path, a video file; for all a folder, a
    file, "-" for standard input, an array or bytes, or an iterable of them. A path that exists goes before a camera's
    number. spec, steps: the manifest's `input` and `preprocess`; a window step says how sounds and series are cut,
    without one a file is one input. follow: go on where a folder or a CSV file ends today, take standard input for
    JPEGs one after another, wait for a camera that is not there yet. rate_hz: at most so many frames a second, of the
    stream's own time where it has one; 0 for all. Raises NotFound if there is no such file or camera, InvalidInput if
    it cannot be a source of such inputs.
    """
    if not (rate_hz >= 0 and math.isfinite(rate_hz)):
        raise InvalidInput(f"rate_hz is {rate_hz}; expected frames a second, or 0 for all")
    if isinstance(source, int | str | os.PathLike):
        return _named(source, spec, steps, follow=follow, rate_hz=rate_hz)
    if follow:
        raise _no_follow("an iterator, an array or bytes")
    cut = make_cut(spec, steps)
    if isinstance(source, bytes):
        source = (source,)
    if isinstance(source, np.ndarray):
        source = _pictures(source) if spec.modality is Modality.IMAGE else (source,)
    return Stream(Items(source, cut), rate_hz=rate_hz)


def make_cut(spec: InputSpec, steps: tuple[Step, ...], *, sequence: bool = False) -> Cut:
    """How the frames of a bundle's modality are told apart. sequence: of images, see PictureCut."""
    if spec.modality is Modality.IMAGE:
        return PictureCut(sequence=sequence)
    if spec.modality is Modality.SOUND:
        return SoundCut(spec, steps)
    if spec.modality is Modality.SERIES:
        return SeriesCut(spec, steps)
    return TensorCut(spec)


def _named(
    source: int | str | os.PathLike[str], spec: InputSpec, steps: tuple[Step, ...], *, follow: bool, rate_hz: float
) -> FrameSource:
    if source == STANDARD_INPUT:
        return _standard_input(make_cut(spec, steps, sequence=follow), follow=follow, rate_hz=rate_hz)
    video = _video(source, follow=follow, rate_hz=rate_hz)
    if video is not None:
        if spec.modality is not Modality.IMAGE:
            named = str(source)
            shown = without_secrets(named) if "://" in named else named
            raise InvalidInput(f"{shown} gives images; the bundle takes {spec.modality}")
        return Stream(video)
    return _file(Path(source), make_cut(spec, steps), follow=follow, rate_hz=rate_hz)  # type: ignore[arg-type]


def _video(source: int | str | os.PathLike[str], *, follow: bool, rate_hz: float) -> Reader | None:
    """The reader of a URL, a camera or a video file; None if the source is none of them."""
    text = str(source)
    if match := _SCHEME.match(text):
        return _url(text, match[1].lower(), follow=follow, rate_hz=rate_hz)
    path = Path(text)
    if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
        if follow:
            raise _no_follow("a video file")
        opened = partial(open_video, text, open_s=_FILE_OPEN_S, read_s=_FILE_OPEN_S)
        return VideoFile(path.name, opened, rate_hz=rate_hz)
    is_number = text.isdecimal() and not path.exists()
    device = Path(f"/dev/video{text}") if is_number else path
    if not (is_number or device.is_char_device() or device.is_relative_to("/dev")):
        return None
    if sys.platform.startswith("linux") and not follow and not device.exists():
        raise NotFound(f"there is no camera {device}; plug it in, or let it be waited for (follow)")
    return LiveVideo(text, partial(open_camera, int(text) if is_number else text), rate_hz=rate_hz)


def _url(url: str, scheme: str, *, follow: bool, rate_hz: float) -> Reader:
    if scheme not in _LIVE_SCHEMES:
        raise InvalidInput(f"{scheme}:// is not read; expected {', '.join(_LIVE_SCHEMES)}, a camera, a path or -")
    name = without_secrets(url)
    if Path(urlsplit(url).path).suffix.lower() in VIDEO_SUFFIXES and scheme.startswith("http"):
        if follow:
            raise _no_follow("a video file")
        return VideoFile(name, partial(open_video, url, open_s=_FILE_OPEN_S, read_s=_FILE_OPEN_S), rate_hz=rate_hz)
    opened = partial(open_video, url, open_s=_PATIENCE.open_s, read_s=_PATIENCE.stall_s)
    return LiveVideo(name, opened, rate_hz=rate_hz, patience=_PATIENCE)


def without_secrets(url: str) -> str:
    """A URL as it may be shown: without user, password and query. Raises InvalidInput if it is none.

    >>> without_secrets("rtsp://admin:1234@10.0.0.7:554/door?token=5")
    'rtsp://10.0.0.7:554/door'
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidInput(f"this URL cannot be read: {error}") from error
    if not parts.hostname:
        raise InvalidInput(f"{parts.scheme}:// names no host; expected such as rtsp://HOST:554/PATH")
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _file(path: Path, cut: Cut, *, follow: bool, rate_hz: float) -> FrameSource:
    if path.is_dir():
        if not follow and not any(one.suffix.lower() in cut.suffixes for one in path.iterdir()):
            raise NotFound(f"{path} holds no file to read; expected files ending in {', '.join(cut.suffixes)}")
        return Stream(Folder(path, cut, follow=follow), rate_hz=rate_hz)
    if not path.is_file():
        raise NotFound(f"there is no file, folder or camera {path}")
    if path.suffix.lower() not in cut.suffixes:
        raise InvalidInput(f"{path} does not end in {', '.join(cut.suffixes)}, which is what the bundle takes")
    if follow and not (cut.can_follow and path.suffix.lower() == ".csv"):
        raise _no_follow(f"{path.name}: a file of one input")
    return Stream(OneFile(path, cut, follow=follow), rate_hz=rate_hz)


def _standard_input(cut: Cut, *, follow: bool, rate_hz: float) -> FrameSource:
    if follow and not cut.can_follow:
        raise _no_follow("standard input, without a window step in the manifest,")
    try:
        descriptor = sys.stdin.fileno()
    except (AttributeError, ValueError, OSError) as error:
        raise NotFound(f"there is no standard input here: {error}; name a file") from error
    return Stream(Descriptor("stdin", descriptor, cut), rate_hz=rate_hz)


def _pictures(array: NDArray[Any]) -> Iterable[Source]:
    """One image, or each of an array of them."""
    is_many = array.ndim == 4 or (array.ndim == 3 and array.shape[2] not in (1, 3))
    return list(array) if is_many else (array,)


def _no_follow(what: str) -> InvalidInput:
    return InvalidInput(f"{what} cannot be followed: a folder, a growing CSV table and live sources can")
