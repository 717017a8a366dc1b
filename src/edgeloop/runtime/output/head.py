"""From a bundle to the head that its output asks for."""

from edgeloop.bundle.archive import Bundle
from edgeloop.bundle.arrays import from_npy
from edgeloop.contracts.output import Anomaly, Classification, Detection, Embedding, Regression
from edgeloop.runtime.output.anomaly import AnomalyHead
from edgeloop.runtime.output.classification import ClassificationHead
from edgeloop.runtime.output.detection import DetectionHead
from edgeloop.runtime.output.embedding import EmbeddingHead, Examples
from edgeloop.runtime.output.novelty import NoveltyScale
from edgeloop.runtime.output.port import Head
from edgeloop.runtime.output.regression import RegressionHead


def make_head(bundle: Bundle) -> Head:
    """The head for a bundle, with what the bundle ships for it.

    Raises InvalidInput if the manifest contradicts itself, Corrupt or NotFound if a file of it cannot be used.
    """
    manifest, output = bundle.manifest, bundle.manifest.output
    if isinstance(output, Classification):
        return ClassificationHead(manifest, output, NoveltyScale(bundle) if manifest.reference else None)
    if isinstance(output, Detection):
        return DetectionHead(manifest, output)
    if isinstance(output, Regression):
        return RegressionHead(manifest, output)
    if isinstance(output, Anomaly):
        return AnomalyHead(manifest, output)
    if isinstance(output, Embedding):
        return EmbeddingHead(manifest, output, _examples(bundle, output))
    from edgeloop.runtime.output.segmentation import SegmentationHead  # brings OpenCV, which sound does without

    return SegmentationHead(manifest, output)


def _examples(bundle: Bundle, output: Embedding) -> Examples | None:
    if output.enrolled is None:
        return None
    vectors = from_npy(bundle.read(output.enrolled.vectors), what="enrolled vectors")
    return Examples(output.enrolled.labels, vectors)
