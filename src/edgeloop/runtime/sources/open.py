"""The source that a person named: a camera, a URL, a video, a folder, a file, standard input, an iterator.

What reads a kind of source is imported where one is named: a folder of files is handed on as bytes, without NumPy (20
MB) and OpenCV (17 MB), which a device's agent leaves to the process that answers.
"""

import math
import os
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from edgeloop.contracts.errors import InvalidInput, NotFound
from edgeloop.contracts.manifest import InputSpec, Modality
from edgeloop.contracts.preprocess import Resample, Step, Window
from edgeloop.runtime.input.port import Source
from edgeloop.runtime.sources.files import Descriptor, Folder, OneFile
from edgeloop.runtime.sources.names import STANDARD_INPUT, is_video_name, scheme_of, shown, without_secrets
from edgeloop.runtime.sources.pictures import PictureCut
from edgeloop.runtime.sources.port import Cut, FrameSource, Reader
from edgeloop.runtime.sources.stream import Stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FILE_OPEN_S = 30.0


class _Wish(NamedTuple):
    """How a source is to be read; see open_source."""

    follow: bool
    rate_hz: float
    after: str


def open_source(
    source: "Source | int | Iterable[Source]",
    spec: InputSpec,
    steps: tuple[Step, ...],
    *,
    follow: bool = False,
    rate_hz: float = 0.0,
    after: str = "",
) -> FrameSource:
    """What a person names as a stream of the inputs that a bundle takes.

    source: for images a URL (rtsp, http, ...), a camera's number or device path, a video file; for all a folder, a
    file, "-" for standard input, an array or bytes, or an iterable of them. A path that exists goes before a camera's
    number. spec, steps: the manifest's `input` and `preprocess`; a window step says how sounds and series are cut,
    without one a file is one input. follow: go on where a folder or a CSV file ends today, take standard input for
    JPEGs one after another, wait for a camera that is not there yet. rate_hz: at most so many frames a second, of the
    stream's own time where it has one; 0 for all. after: of a folder and of a CSV file that is followed, the last frame
    of an earlier run; what came before it is passed over. Raises NotFound if there is no such file or camera,
    InvalidInput if it cannot be a source of such inputs.
    """
    if not (rate_hz >= 0 and math.isfinite(rate_hz)):
        raise InvalidInput(f"rate_hz is {rate_hz}; expected frames a second, or 0 for all")
    if isinstance(source, int | str | os.PathLike):
        return _named(source, spec, steps, _Wish(follow, rate_hz, after))
    if follow:
        raise _no_follow("an iterator, an array or bytes")
    import numpy as np

    from edgeloop.runtime.sources.items import Items

    cut = make_cut(spec, steps)
    if isinstance(source, bytes):
        source = (source,)
    if isinstance(source, np.ndarray):
        source = _pictures(source) if spec.modality is Modality.IMAGE else (source,)
    return Stream(Items(source, cut), rate_hz=rate_hz)


def open_lasting(
    source: str, spec: InputSpec, steps: tuple[Step, ...], *, rate_hz: float = 0.0, after: str = ""
) -> FrameSource:
    """The same for who goes on for as long as there is something: folders and CSV files are followed.

    Of a series without a window step a CSV file is one input, as a WAV file and a video are, and ends where it ends.
    """
    path = Path(source)
    is_growing = path.suffix.lower() == ".csv" and path.is_file() and make_cut(spec, steps).can_follow
    return open_source(source, spec, steps, follow=path.is_dir() or is_growing, rate_hz=rate_hz, after=after)


def input_kind(spec: InputSpec, steps: tuple[Step, ...]) -> tuple[object, ...]:
    """What of a manifest decides how a source is cut: bundles with the same can take one another's frames."""
    window, resample = (next((step for step in steps if isinstance(step, kind)), None) for kind in (Window, Resample))
    if spec.modality is Modality.IMAGE:
        return (spec.modality,)
    if spec.modality is Modality.SOUND:
        return spec.modality, spec.rate_hz, window, resample
    if spec.modality is Modality.SERIES:
        return spec.modality, spec.channels, spec.rate_hz, window
    return spec.modality, spec.channels, spec.shape


def make_cut(spec: InputSpec, steps: tuple[Step, ...], *, sequence: bool = False) -> Cut:
    """How the frames of a bundle's modality are told apart. sequence: of images, see PictureCut."""
    if spec.modality is Modality.IMAGE:
        return PictureCut(sequence=sequence)
    if spec.modality is Modality.SOUND:
        from edgeloop.runtime.sources.sounds import SoundCut

        return SoundCut(spec, steps)
    from edgeloop.runtime.sources.tables import SeriesCut, TensorCut

    return SeriesCut(spec, steps) if spec.modality is Modality.SERIES else TensorCut(spec)


def _named(source: int | str | os.PathLike[str], spec: InputSpec, steps: tuple[Step, ...], wish: _Wish) -> FrameSource:
    if source == "":  # an unset variable of a shell; pathlib takes it for the folder that one stands in
        raise InvalidInput("the source is an empty name; expected a file, a folder, a camera, a URL or - (here is .)")
    if source == STANDARD_INPUT:
        return _standard_input(make_cut(spec, steps, sequence=wish.follow), wish)
    video = _video(source, follow=wish.follow, rate_hz=wish.rate_hz)
    if video is not None:
        if spec.modality is not Modality.IMAGE:
            raise InvalidInput(f"{shown(str(source))} gives images; the bundle takes {spec.modality}")
        return Stream(video)
    return _file(Path(source), make_cut(spec, steps), wish)  # type: ignore[arg-type]


def _video(source: int | str | os.PathLike[str], *, follow: bool, rate_hz: float) -> Reader | None:
    """The reader of a URL, a camera or a video file; None if the source is none of them."""
    text = str(source)
    if scheme := scheme_of(text):
        return _url(text, scheme, follow=follow, rate_hz=rate_hz)
    path = Path(text)
    if is_video_name(path.name) and path.is_file():
        return _video_file(path.name, text, follow=follow, rate_hz=rate_hz)
    is_number = text.isdecimal() and not path.exists()
    device = Path(f"/dev/video{text}") if is_number else path
    # What lies in /dev/shm are files in memory.
    may_come = device.is_relative_to("/dev") and not device.is_relative_to("/dev/shm")  # noqa: S108 - only looked at
    if not (is_number or device.is_char_device() or may_come):
        return None
    if sys.platform.startswith("linux") and not follow and not device.exists():
        raise NotFound(f"there is no camera {device}; plug it in, or let it be waited for (follow=True in Python)")
    from edgeloop.runtime.sources.capture import open_camera
    from edgeloop.runtime.sources.live import LiveVideo

    return LiveVideo(text, partial(open_camera, int(text) if is_number else text), rate_hz=rate_hz)


def _url(url: str, scheme: str, *, follow: bool, rate_hz: float) -> Reader:
    name = without_secrets(url)
    if is_video_name(urlsplit(url).path) and scheme.startswith("http"):
        return _video_file(name, url, follow=follow, rate_hz=rate_hz, is_remote=True)
    from edgeloop.runtime.sources.capture import open_video
    from edgeloop.runtime.sources.live import LiveVideo, Patience

    patience = Patience()
    opened = partial(open_video, url, open_s=patience.open_s, read_s=patience.stall_s)
    return LiveVideo(name, opened, rate_hz=rate_hz, patience=patience)


def _video_file(name: str, where: str, *, follow: bool, rate_hz: float, is_remote: bool = False) -> Reader:
    if follow:
        raise _no_follow("a video file")
    from edgeloop.runtime.sources.capture import open_video
    from edgeloop.runtime.sources.video import VideoFile

    opened = partial(open_video, where, open_s=_FILE_OPEN_S, read_s=_FILE_OPEN_S)
    return VideoFile(name, opened, rate_hz=rate_hz, is_remote=is_remote)


def _file(path: Path, cut: Cut, wish: _Wish) -> FrameSource:
    if path.is_dir():
        if not wish.follow and not any(one.suffix.lower() in cut.suffixes for one in path.iterdir()):
            raise NotFound(f"{path} holds no file to read; expected files ending in {', '.join(cut.suffixes)}")
        return Stream(Folder(path, cut, follow=wish.follow, after=wish.after), rate_hz=wish.rate_hz)
    if not path.is_file():
        raise NotFound(f"there is no file, folder or camera {path}")
    if path.suffix.lower() not in cut.suffixes:
        raise InvalidInput(f"{path} does not end in {', '.join(cut.suffixes)}, which is what the bundle takes")
    if wish.follow and not (cut.can_follow and path.suffix.lower() == ".csv"):
        raise _no_follow(f"{path.name}: a file of one input")
    return Stream(OneFile(path, cut, follow=wish.follow, after=wish.after), rate_hz=wish.rate_hz)


def _standard_input(cut: Cut, wish: _Wish) -> FrameSource:
    if wish.follow and not cut.can_follow:
        raise _no_follow("standard input, without a window step in the manifest,")
    try:
        descriptor = sys.stdin.fileno()
    except (AttributeError, ValueError, OSError) as error:
        raise NotFound(f"there is no standard input here: {error}; name a file") from error
    return Stream(Descriptor("stdin", descriptor, cut), rate_hz=wish.rate_hz)


def _pictures(array: "NDArray[Any]") -> Iterable[Source]:
    """One image, or each of an array of them."""
    is_many = array.ndim == 4 or (array.ndim == 3 and array.shape[2] not in (1, 3))
    return list(array) if is_many else (array,)


def _no_follow(what: str) -> InvalidInput:
    return InvalidInput(f"{what} cannot be followed: a folder, a growing CSV table and live sources can")
