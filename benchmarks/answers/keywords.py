"""MLPerf Tiny's keyword spotting: its int8 model on 1,000 clips, through our MFCC and from the features given."""

from collections.abc import Iterator

import numpy as np

from benchmarks import bundles, data
from benchmarks.context import Context, Work
from benchmarks.hand.cases import raw_clips
from benchmarks.hand.keywords import LABELS
from benchmarks.rows import Row, at_least
from edgeloop.bundle.archive import open_bundle
from edgeloop.contracts.manifest import Precision
from edgeloop.runtime.predictor import Predictor

NAME = "keywords"

_REFERENCE = 0.902
_SLACK = 0.003


def _rows(context: Context) -> Iterator[Row]:
    bundle = open_bundle(bundles.keywords(context))
    variant = next(one for one in bundle.manifest.variants if one.precision is Precision.INT8)
    predictor = Predictor(bundle, variant)
    clips, labels = raw_clips(context.assets, 1000)
    heard = [predictor.predict(clip).label for clip in clips]
    raw = float(np.mean([label == LABELS[index] for label, index in zip(heard, labels, strict=True)]))
    features, labels_of_features = data.keyword_clips(context.assets)
    scores = [next(iter(predictor.run_tensor(one[np.newaxis]).values())).argmax() for one in features]
    given = float((np.array(scores) == labels_of_features).mean())
    predictor.close()
    for what, share in (("right from raw sound", raw), ("right from the features given", given)):
        yield at_least(
            NAME, what, "MLPerf Tiny int8", ours=share, theirs=_REFERENCE, bound=_REFERENCE - _SLACK,
            note="the 32 clips of the golden samples among them" if share is raw else "",
        )  # fmt: skip


WORK = Work(NAME, "MLPerf Tiny keyword spotting, from raw clips and from features", _rows)
