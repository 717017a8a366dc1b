"""OpenCV, as every module of the runtime gets it: within our bounds, silent, or missing with a word on what to do.

Whoever sets OPENCV_IO_MAX_IMAGE_PIXELS, OPENCV_LOG_LEVEL or OPENCV_FFMPEG_LOGLEVEL keeps their own.
"""

import os

from edgeloop.contracts.errors import Unavailable

# Read when OpenCV is loaded, and checked before it allocates: a small file can claim many pixels.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "64000000")
# FFmpeg's is read at the first video.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

try:
    import cv2
except ImportError as error:
    raise Unavailable(
        f"OpenCV cannot be loaded ({error}); images, video and the spectra of sounds (log_mel) need it: install it "
        "with: pip install opencv-python-headless"
    ) from error

# OpenCV and FFmpeg write what they think of a damaged image or a broken stream to standard error, across whatever is
# drawn there; what matters of it is said by our errors and counters.
if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_FATAL)

__all__ = ["cv2"]
