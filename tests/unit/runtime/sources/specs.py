"""What models take, for tests of sources."""

from edgeloop.contracts.manifest import InputSpec, Modality

IMAGE = InputSpec("image", Modality.IMAGE, (1, 32, 64, 3), "nhwc", (0.0, 1.0))
SOUND = InputSpec("sound", Modality.SOUND, (1, 400), "nt", (-1.0, 1.0), rate_hz=8000)
SERIES = InputSpec("series", Modality.SERIES, (1, 4, 2), "ntc", (-1.0, 1.0), channels=("x", "y"))
TENSOR = InputSpec("table", Modality.TENSOR, (1, 3), "nc", (-1.0, 1.0))
