"""From a bundle to the head that its output asks for."""

from typing import TYPE_CHECKING

from edgeloop.bundle.archive import Bundle
from edgeloop.bundle.arrays import from_npy
from edgeloop.contracts.output import Anomaly, Classification, Detection, Embedding, Regression
from edgeloop.runtime.output.port import Head

if TYPE_CHECKING:
    from edgeloop.runtime.output.embedding import Examples


def make_head(bundle: Bundle) -> Head:
    """The head for a bundle, with what the bundle ships for it.

    Raises InvalidInput if the manifest contradicts itself, Corrupt or NotFound if a file of it cannot be used.
    """
    manifest, output = bundle.manifest, bundle.manifest.output
    # Each is imported when it is needed: a first answer waits for the one that it takes.
    if isinstance(output, Classification):
        from edgeloop.runtime.output.classification import ClassificationHead
        from edgeloop.runtime.output.novelty import NoveltyScale

        return ClassificationHead(manifest, output, NoveltyScale(bundle) if manifest.reference else None)
    if isinstance(output, Detection):
        from edgeloop.runtime.output.detection import DetectionHead

        return DetectionHead(manifest, output)
    if isinstance(output, Regression):
        from edgeloop.runtime.output.regression import RegressionHead

        return RegressionHead(manifest, output)
    if isinstance(output, Anomaly):
        from edgeloop.runtime.output.anomaly import AnomalyHead

        return AnomalyHead(manifest, output)
    if isinstance(output, Embedding):
        from edgeloop.runtime.output.embedding import EmbeddingHead

        return EmbeddingHead(manifest, output, _examples(bundle, output))
    from edgeloop.runtime.output.segmentation import SegmentationHead  # brings OpenCV, which sound does without

    return SegmentationHead(manifest, output)


def _examples(bundle: Bundle, output: Embedding) -> "Examples | None":
    if output.enrolled is None:
        return None
    from edgeloop.runtime.output.embedding import Examples

    vectors = from_npy(bundle.read(output.enrolled.vectors), what="enrolled vectors")
    return Examples(output.enrolled.labels, vectors)
