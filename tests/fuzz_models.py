"""Sound bundles of every task and modality, small enough to be opened thousands of times."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from builders import Parts, as_bundle, make_parts
from edgeloop.bundle.archive import digest, entries
from edgeloop.bundle.arrays import to_npy
from edgeloop.contracts.manifest import (
    EngineName,
    Golden,
    InputSpec,
    Lineage,
    Manifest,
    Modality,
    Precision,
    Tolerance,
    Variant,
)
from edgeloop.contracts.output import (
    Activation,
    Anomaly,
    CentreHeads,
    Classification,
    Consensus,
    Corners,
    Detection,
    Distance,
    Embedding,
    Enrolled,
    ErrorKind,
    MedianOf,
    Output,
    PlainBoxes,
    Regression,
    Segmentation,
    SsdAnchors,
    YoloHeads,
)
from edgeloop.contracts.preprocess import (
    CenterCrop,
    Colour,
    ColourOrder,
    Dct,
    FillMissing,
    Interpolation,
    Letterbox,
    Logarithm,
    LogMel,
    MelAxis,
    MelNorm,
    MelScale,
    Missing,
    Normalize,
    Peak,
    PeakNormalize,
    Resample,
    ResampleQuality,
    Resize,
    ResizeShorter,
    Scale,
    Step,
    Window,
    WindowKind,
)
from edgeloop.runtime.engines.find import load_engine
from edgeloop.runtime.engines.probe import probe_model
from edgeloop.runtime.predictor import Predictor

COUNT = 16
_RNG = np.random.default_rng(3)
_COLOUR = InputSpec("image", Modality.IMAGE, (1, 8, 8, 3), "nhwc", (0.0, 1.0))
_FIRST = InputSpec("image", Modality.IMAGE, (1, 3, 8, 8), "nchw", (0.0, 1.0))
_SOUND = InputSpec("sound", Modality.SOUND, (1, 5, 6), "ntf", (-9.0, 9.0), rate_hz=8000)
_SERIES = InputSpec("series", Modality.SERIES, (1, 4, 2), "ntc", (-1.0, 1.0), rate_hz=50, channels=("x", "y"))
_TENSOR = InputSpec("x", Modality.TENSOR, (1, 2), "nc", (-1.0, 1.0))
_SHARE = Interpolation.LINEAR


def sound_parts() -> list[Parts]:
    """One bundle a task and way of decoding, all of which pass their replay."""
    images = _RNG.integers(0, 256, (COUNT, 11, 9, 3), dtype=np.uint8)
    waves = (_RNG.normal(0, 4000, (COUNT, 400))).astype(np.int16)
    rows = _RNG.normal(0, 1, (COUNT, 4, 2)).astype(np.float32)
    pixels = (Resize(8, 8, _SHARE, reduced_decode=True), Scale(1 / 255))
    return [
        make_parts(),
        _detection(
            images, PlainBoxes(Corners.XYXY, normalized=True), {"boxes": (1, 4, 4), "scores": (1, 4, 3)}, background=0
        ),
        _detection(images, YoloHeads(objectness=True, transposed=False), {"boxes": (1, 4, 7)}, scores="boxes"),
        _detection(
            images,
            SsdAnchors(feature_maps=((1, 2), (1, 1)), sizes_px=((4.0,), (3.0, 8.0))),
            {"boxes": (1, 4, 4), "scores": (1, 4, 2)},
        ),
        _detection(
            images,
            CentreHeads(offsets="offsets", stride_px=4),
            {"boxes": (1, 2, 2, 2), "scores": (1, 2, 2, 2), "offsets": (1, 2, 2, 2)},
        ),
        _parts(
            Segmentation(scores="scores", activation=Activation.SOFTMAX, channels_first=True, threshold=0.2),
            ("a", "b", "c"),
            _FIRST,
            (
                ResizeShorter(8, _SHARE),
                CenterCrop(8, 8),
                Colour(ColourOrder.BGR),
                Scale(1 / 255),
                Normalize((0.5,) * 3, (0.2,) * 3),
            ),
            images,
            {"scores": (1, 3, 4, 4)},
        ),
        _embedding(images, (Letterbox(8, 8, _SHARE), *pixels[1:])),
        _parts(
            Classification(scores="logits", activation=Activation.SIGMOID, threshold=0.3, smoothing=MedianOf(3)),
            ("yes", "no", "noise"),
            _SOUND,
            _mfcc(),
            waves,
            {"logits": (1, 3)},
        ),
        _parts(
            Anomaly(reconstruction="again", error=ErrorKind.MEAN_SQUARED, threshold=0.5, smoothing=Consensus(5, 2)),
            ("ok", "odd"),
            _SERIES,
            (Window(4, 2), FillMissing(Missing.LINEAR, 0.5), Normalize((0.0, 0.0), (1.0, 1.0))),
            rows,
            {"again": (1, 4, 2)},
        ),
        _doubling(),
    ]


def _mfcc() -> tuple[Step, ...]:
    mel = LogMel(
        frame_samples=128,
        hop_samples=64,
        fft_samples=128,
        window=WindowKind.HANN,
        power=2,
        mel_bins=10,
        low_hz=20.0,
        high_hz=4000.0,
        scale=MelScale.HTK,
        axis=MelAxis.HZ,
        norm=MelNorm.AREA,
        log=Logarithm.LN_ADD,
        floor=1e-6,
    )
    return (
        Resample(ResampleQuality.LOW),
        Window(400, 200, pad=True),
        PeakNormalize(Peak.MAGNITUDE, 1e-3),
        mel,
        Dct(coefficients=6, factor=0.4, first_factor=0.3),
    )


def _detection(
    images: NDArray[Any],
    decode: Any,
    shapes: dict[str, tuple[int, ...]],
    *,
    scores: str = "scores",
    background: int | None = None,
) -> Parts:
    output = Detection(
        boxes="boxes",
        scores=scores,
        activation=Activation.SIGMOID,
        decode=decode,
        threshold=0.4,
        iou_threshold=0.5,
        background=background,
    )
    return _parts(output, ("cat", "dog"), _COLOUR, (Resize(8, 8, _SHARE), Scale(1 / 255)), images, shapes)


def _embedding(images: NDArray[Any], steps: tuple[Step, ...]) -> Parts:
    vectors = to_npy(_RNG.normal(0, 1, (3, 5)).astype(np.float32))
    enrolled = Enrolled(("ann", "bob", "ann"), digest(vectors))
    output = Embedding(
        vector="vector", distance=Distance.COSINE, threshold=0.6, enrolled=enrolled, smoothing=Consensus(3, 2)
    )
    return _parts(output, (), _COLOUR, steps, images, {"vector": (1, 5)}, shipped=(vectors,))


def _doubling() -> Parts:
    """A regression with a variant for each engine: the probes, x to twice x."""
    engines = {
        engine: probe_model(engine) for engine in (EngineName.ONNXRUNTIME, EngineName.OPENVINO, EngineName.LITERT)
    }
    output = Regression(value="y", unit=("m", "m"), agree_within=0.1, smoothing=MedianOf(3))
    inputs = _RNG.normal(0, 1, (COUNT, 2)).astype(np.float32)
    return _with_golden(
        _manifest(output, ("left", "right"), _TENSOR, (Scale(0.5, 0.1),), engines), list(engines.values()), inputs
    )


def _parts(
    output: Output,
    labels: tuple[str, ...],
    spec: InputSpec,
    steps: tuple[Step, ...],
    inputs: NDArray[Any],
    shapes: dict[str, tuple[int, ...]],
    shipped: tuple[bytes, ...] = (),
) -> Parts:
    model = _model(spec, shapes)
    manifest = _manifest(output, labels, spec, steps, {EngineName.ONNXRUNTIME: model}, tuple(shapes))
    return _with_golden(manifest, [model, *shipped], inputs)


def _model(spec: InputSpec, shapes: dict[str, tuple[int, ...]]) -> bytes:
    """Each output is a few numbers that depend on the input: constants plus its mean."""
    nodes, weights = [helper.make_node("ReduceMean", [spec.name], ["mean"], keepdims=0)], []
    for name, shape in shapes.items():
        numbers = _RNG.normal(0.3, 0.5, shape).astype(np.float32)
        if name == "boxes" and shape[-1] == 4:
            numbers[..., 2:] = np.abs(numbers[..., :2]) + 0.5
        weights.append(numpy_helper.from_array(numbers, f"{name} constant"))
        nodes.append(helper.make_node("Add", [f"{name} constant", "mean"], [name]))
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString(deterministic=True))


def _manifest(
    output: Output,
    labels: tuple[str, ...],
    spec: InputSpec,
    steps: tuple[Step, ...],
    models: dict[EngineName, bytes],
    names: tuple[str, ...] = ("y",),
) -> Manifest:
    variants = tuple(
        Variant(digest(model), engine, Precision.FLOAT32, len(model), _named(engine, model, spec.name, names))
        for engine, model in models.items()
    )
    golden = Golden("0" * 64, "1" * 64, COUNT, {Precision.FLOAT32: Tolerance(1e-3, 1e-3, 1.0)})
    return Manifest(
        name="made",
        version="1.0.0",
        labels=labels,
        input=spec,
        preprocess=steps,
        output=output,
        variants=variants,
        golden=golden,
        files=(),
        lineage=Lineage({"kind": "made", "seed": 3}, {}, {"onnx": "1"}),
    )


def _named(engine: EngineName, model: bytes, given: str, names: tuple[str, ...]) -> dict[str, str]:
    loaded = load_engine(engine, model)
    made = [spec.name for spec in loaded.outputs]
    tensors = {given: loaded.inputs[0].name, **{name: name if name in made else made[0] for name in names}}
    loaded.close()
    return tensors


def _with_golden(manifest: Manifest, files: list[bytes], inputs: NDArray[Any]) -> Parts:
    """With golden samples, whose outputs are what the first variant answers."""
    held = Parts(manifest, {digest(data): data for data in files}).changed(files=entries(files))
    predictor = Predictor(as_bundle(held), manifest.variants[0])
    outputs = to_npy(np.stack([predictor.basis(one) for one in inputs]))
    predictor.close()
    given = to_npy(inputs)
    golden = Golden(digest(given), digest(outputs), COUNT, manifest.golden.tolerance)
    files = [*files, given, outputs]
    return Parts(manifest, {digest(data): data for data in files}).changed(files=entries(files), golden=golden)
