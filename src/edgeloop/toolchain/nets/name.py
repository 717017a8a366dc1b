"""The networks by name. Apart from `build`, which makes them: a command line that offers names need not load Keras."""

from enum import StrEnum


class NetName(StrEnum):
    """The networks that can be trained from scratch."""

    DIGITS = "digits"
    SLIM = "slim"
    PLAIN = "plain"
    RESIDUAL = "residual"
    SERIES = "series"
    DENSE = "dense"
    AUTOENCODER = "autoencoder"


GROWING = (NetName.SLIM, NetName.PLAIN)
"""Those whose channels grow by a factor that one may choose."""
