"""What pruning goes by: what a share is of, where channels compete, what makes one matter.

Neighbours: `choose` and `rank` compute it.
"""

from enum import StrEnum


class Of(StrEnum):
    """What a share is a share of. channels: of those that may leave."""

    MACS = "macs"
    PARAMETERS = "parameters"
    CHANNELS = "channels"


class Scope(StrEnum):
    """Where importance competes. network: any channel against any other, so some layers shrink more; layer: every
    group of layers keeps the same share."""

    NETWORK = "network"
    LAYER = "layer"


class By(StrEnum):
    """The measure.

    l1, l2: norms of the weights that make the channel, as batch normalization scales them, after Li et al. 2017
    (arXiv 1608.08710), sec. 3.1. activation: mean |a| where the channel is read. zeros: share of those that are not
    0, after Hu et al. 2016 (arXiv 1607.03250), eq. 1. random: the control that every other measure must beat.
    """

    L1 = "l1"
    L2 = "l2"
    ACTIVATION = "activation"
    ZEROS = "zeros"
    RANDOM = "random"

    @property
    def needs_data(self) -> bool:
        """Whether it looks at samples."""
        return self in (By.ACTIVATION, By.ZEROS)
