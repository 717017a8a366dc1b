"""Everything that needs TensorFlow, in one module: it is imported once, and trained once for all tests."""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloop.bundle.archive import open_bundle
from edgeloop.bundle.arrays import from_npy
from edgeloop.contracts.errors import Corrupt, EdgeloopError, InvalidInput, NotFound, Refused
from edgeloop.contracts.manifest import EngineName, Manifest, Precision, Variant
from edgeloop.contracts.output import Activation
from edgeloop.contracts.preprocess import Grey, Resize, Scale
from edgeloop.runtime.output.scores import probabilities
from edgeloop.runtime.predictor import Predictor
from edgeloop.runtime.replay import replay
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.build import Build, BuildFolder
from edgeloop.toolchain.convert.keras import export_keras
from edgeloop.toolchain.data.dataset import Dataset, Part, Prepared, prepare
from edgeloop.toolchain.data.open import open_dataset
from edgeloop.toolchain.draft import Draft, add_variant, begin_draft
from edgeloop.toolchain.nets.digits import KerasModel, digits_net
from edgeloop.toolchain.package import pack
from edgeloop.toolchain.progress import silent
from edgeloop.toolchain.quantize.litert import quantize_int8
from edgeloop.toolchain.source.engine import wrap_runnable
from edgeloop.toolchain.source.keras import load_keras, wrap_keras
from edgeloop.toolchain.source.model import Format, Model
from edgeloop.toolchain.train import RetrainRecipe, TrainRecipe, TrainReport, retrain, to_tensor, train

# TensorFlow's and its exporters' own deprecations; none of them is about a call of ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:keras"),
]

VARIANTS = (
    (EngineName.LITERT, Precision.FLOAT32),
    (EngineName.LITERT, Precision.INT8),
    (EngineName.ONNXRUNTIME, Precision.FLOAT32),
)
RECIPE = TrainRecipe(images_seen=3_000)


@dataclass(frozen=True)
class Trained:
    """One small run, converted to every variant."""

    dataset: Dataset
    report: TrainReport
    path: Path
    source: Model
    data: Prepared
    draft: Draft
    folder: BuildFolder
    folder_path: Path
    build: Build
    bundle_path: Path
    manifest: Manifest


@pytest.fixture(scope="module")
def keras() -> Any:
    return import_keras()


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Digits; the parts that judge are small, since every variant answers all of them."""
    whole = open_dataset("digits")
    return replace(whole, holdout=whole.holdout.take(200))


@pytest.fixture(scope="module")
def small(dataset: Dataset) -> Dataset:
    """Enough to train and judge something, not enough to learn anything."""
    return replace(
        dataset, fit=dataset.fit.take(256), validation=dataset.validation.take(100), holdout=dataset.holdout.take(50)
    )


@pytest.fixture(scope="module")
def trained(keras: Any, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder_path = tmp_path_factory.mktemp("trained")
    model, report = train(RECIPE, dataset, progress=silent)
    path = folder_path / "model.keras"
    path.write_bytes(model.data)
    source = load_keras(path)
    folder = BuildFolder(folder_path / "build")
    data = prepare(dataset, source.only_input())
    draft = begin_draft(source, data, folder, recipe={"kind": "train", "seed": 0}, parent="digits@0.9.0")
    litert = wrap_runnable(export_keras(source, Format.LITERT), Format.LITERT, name="litert")
    int8 = quantize_int8(litert.data, data.tensors(dataset.fit.inputs[:256]), source.only_input().name)
    onnx = wrap_runnable(export_keras(source, Format.ONNX), Format.ONNX, name="onnx")
    draft = add_variant(draft, litert, Precision.FLOAT32)
    draft = add_variant(draft, wrap_runnable(int8, Format.LITERT, name="int8"), Precision.INT8)
    draft = add_variant(draft, onnx, Precision.FLOAT32)
    bundle_path = folder_path / "digits-1.0.0.edgeloop"
    manifest = pack(folder_path / "build", name="digits", version="1.0.0", out=bundle_path)
    return Trained(
        dataset, report, path, source, data, draft, folder, folder_path / "build", draft.build, bundle_path, manifest
    )


def _variant(trained: Trained, engine: EngineName, precision: Precision) -> Variant:
    return next(v for v in trained.manifest.variants if (v.engine, v.precision) == (engine, precision))


def _weights(model: KerasModel) -> list[Any]:
    return [np.asarray(weight) for weight in model.get_weights()]


def _begin(model: KerasModel, dataset: Dataset, folder: Path) -> Build:
    source = wrap_keras(model, name="model.keras")
    data = prepare(dataset, source.only_input())
    return begin_draft(source, data, BuildFolder(folder), recipe={}).build


# ---- training


def test_training_learns(trained: Trained) -> None:
    # 3,000 images are hardly anything; chance is 10 %.
    assert trained.report.accuracy > 0.6


def test_report_says_what_went_in(trained: Trained) -> None:
    report = trained.report
    assert (report.epochs, report.fitted_on, report.new_samples) == (2, len(trained.dataset.fit), 0)


def test_reported_accuracy_is_the_models_own(trained: Trained) -> None:
    part = trained.dataset.validation
    scores = trained.source.scores(to_tensor(part.inputs))
    assert trained.report.accuracy == pytest.approx((scores.argmax(axis=1) == part.labels).mean())


def _train_small(small: Dataset, seed: int) -> list[Any]:
    model, _ = train(TrainRecipe(seed=seed, images_seen=256), small, progress=silent)
    return _weights(model.native)


def test_same_seed_gives_the_same_weights(keras: Any, small: Dataset) -> None:
    first, again = _train_small(small, 1), _train_small(small, 1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_other_seed_gives_other_weights(keras: Any, small: Dataset) -> None:
    first, other = _train_small(small, 1), _train_small(small, 2)
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True) if a.ndim > 1)


def test_progress_ends_with_all_done(keras: Any, small: Dataset) -> None:
    shares: list[float] = []
    train(TrainRecipe(images_seen=512), small, progress=lambda share, message: shares.append(share))
    assert shares == [0.5, 1.0]


# ---- retraining


def _retrained(
    trained: Trained, new: Part, dataset: Dataset, *, images_seen: int = 500
) -> tuple[KerasModel, TrainReport]:
    parent = import_keras().saving.load_model(trained.path)
    return retrain(RetrainRecipe(images_seen=images_seen), parent, dataset, new, progress=silent)


def _inverted(part: Part, count: int) -> Part:
    return Part(np.asarray(255 - part.inputs[:count], np.uint8), part.labels[:count])


def test_retraining_learns_from_a_few_new_samples(trained: Trained) -> None:
    judged = _inverted(trained.dataset.holdout, 200)
    before = trained.source.scores(to_tensor(judged.inputs))
    model, report = _retrained(trained, _inverted(trained.dataset.field, 40), trained.dataset, images_seen=8_000)
    after = np.asarray(model.predict(to_tensor(judged.inputs), verbose=0))
    gain = (after.argmax(axis=1) == judged.labels).mean() - (before.argmax(axis=1) == judged.labels).mean()
    assert report.new_samples == 40
    # 40 samples teach something; how much is not what this is about.
    assert gain > 0.05


def test_retraining_without_new_samples_says_how_to_get_some(trained: Trained, small: Dataset) -> None:
    with pytest.raises(InvalidInput, match="edgeloop sample label"):
        _retrained(trained, small.field.take(0), small)


def test_new_samples_of_another_size_are_refused(trained: Trained, small: Dataset) -> None:
    new = Part(np.zeros((3, 14, 14), np.uint8), np.zeros(3, np.int64))
    with pytest.raises(InvalidInput, match=r"\(14, 14\), training images \(28, 28\)"):
        _retrained(trained, new, small)


# ---- conversion


@pytest.mark.parametrize(("engine", "precision"), VARIANTS)
def test_variant_replays_its_golden_samples(trained: Trained, engine: EngineName, precision: Precision) -> None:
    bundle, variant = open_bundle(trained.bundle_path), _variant(trained, engine, precision)
    assert replay(bundle, variant, Predictor(bundle, variant)).failure is None


@pytest.mark.parametrize("engine", [EngineName.LITERT, EngineName.ONNXRUNTIME])
def test_float_variant_is_the_float_model(trained: Trained, engine: EngineName) -> None:
    bundle = open_bundle(trained.bundle_path)
    predictor = Predictor(bundle, _variant(trained, engine, Precision.FLOAT32))
    images = trained.dataset.field.inputs[:50]  # neither training nor checking saw these
    expected = trained.source.scores(to_tensor(images))
    made = np.stack([predictor.basis(image) for image in images])
    error = np.abs(made - probabilities(expected, Activation.SOFTMAX))
    # Runtimes differ in the order of float sums only.
    assert error.max() <= 1e-3


def test_int8_variant_agrees_with_the_float_model(trained: Trained) -> None:
    bundle = open_bundle(trained.bundle_path)
    predictor = Predictor(bundle, _variant(trained, EngineName.LITERT, Precision.INT8))
    images = trained.dataset.field.inputs[:100]
    expected = trained.source.scores(to_tensor(images))
    made = np.stack([predictor.basis(image) for image in images])
    assert (made.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.9


def test_int8_variant_is_integer_in_and_out(trained: Trained) -> None:
    from edgeloop.runtime.engines.find import load_engine

    variant = _variant(trained, EngineName.LITERT, Precision.INT8)
    engine = load_engine(EngineName.LITERT, trained.folder.read(variant.file))
    dtypes = {spec.dtype for spec in (*engine.inputs, *engine.outputs)}
    engine.close()
    assert dtypes == {"int8"}


def test_int8_variant_is_a_third_of_the_float_one(trained: Trained) -> None:
    small, large = (_variant(trained, EngineName.LITERT, p).size_bytes for p in (Precision.INT8, Precision.FLOAT32))
    assert small < large / 3


def test_measured_parity_is_stated(trained: Trained) -> None:
    for variant in trained.manifest.variants:
        measured = variant.measured
        assert measured is not None
        assert (measured.samples, measured.agreement >= 0.9) == (len(trained.dataset.holdout), True)


def test_measured_memory_is_a_devices_and_not_the_toolchains(trained: Trained) -> None:
    # TensorFlow alone takes more than this; the runtime in its own process takes about 100 MB.
    for variant in trained.manifest.variants:
        assert variant.measured is not None
        assert variant.measured.peak_memory_bytes < 300_000_000


# ---- what the manifest says


def test_manifest_bears_the_labels(trained: Trained) -> None:
    assert trained.manifest.labels == tuple("0123456789")


def test_manifest_states_every_step_of_preprocessing(trained: Trained) -> None:
    grey, resize, scale = trained.manifest.preprocess
    assert isinstance(grey, Grey)
    assert isinstance(resize, Resize)
    assert isinstance(scale, Scale)
    assert (resize.height_px, resize.width_px, scale.factor, scale.offset) == (28, 28, 1 / 255, 0.0)


def test_manifest_leaves_softmax_to_the_runtime(trained: Trained) -> None:
    output = trained.manifest.output
    assert (output.activation, output.scores, output.features) == (Activation.SOFTMAX, "logits", "features")


def test_lineage_is_enough_to_make_it_again(trained: Trained) -> None:
    lineage = trained.manifest.lineage
    assert (lineage.recipe, lineage.data_sha256, lineage.parent) == (
        {"kind": "train", "seed": 0},
        {"digits": trained.dataset.sha256},
        "digits@0.9.0",
    )
    assert {"keras", "tensorflow-cpu"} <= set(lineage.libraries)


def test_golden_samples_are_even_over_the_classes(trained: Trained) -> None:
    golden = trained.manifest.golden
    images = from_npy(trained.folder.read(golden.inputs), what="inputs")
    labels = [
        int(trained.dataset.validation.labels[(trained.dataset.validation.inputs == image).all(axis=(1, 2))][0])
        for image in images
    ]
    assert min(labels.count(label) for label in range(10)) >= 3


def test_golden_outputs_are_the_float_models_probabilities(trained: Trained) -> None:
    golden = trained.manifest.golden
    images = from_npy(trained.folder.read(golden.inputs), what="inputs")
    scores = trained.source.scores(to_tensor(images))
    raised = np.exp(scores.astype(np.float64))
    outputs = from_npy(trained.folder.read(golden.outputs), what="outputs")
    assert np.allclose(outputs, raised / raised.sum(axis=1, keepdims=True), atol=1e-5)  # float32 sums


def test_clean_data_is_not_novel(trained: Trained) -> None:
    predictor = Predictor(open_bundle(trained.bundle_path), trained.manifest.variants[0])
    made = [predictor.predict(image).novelty for image in trained.dataset.field.inputs[:100]]
    # Standard deviations of clean data: their mean over clean data is near 0.
    assert abs(float(np.mean([one for one in made if one is not None]))) < 0.5


def test_inverted_data_is_novel(trained: Trained) -> None:
    predictor = Predictor(open_bundle(trained.bundle_path), trained.manifest.variants[0])
    made = [predictor.predict(image).novelty for image in _inverted(trained.dataset.field, 50).inputs]
    assert float(np.median([one for one in made if one is not None])) > 2.5


# ---- models that are refused


def test_missing_model_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no model at"):
        load_keras(tmp_path / "model.keras")


@pytest.mark.parametrize("name", ["model.pt", "model"])
def test_unknown_format_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InvalidInput, match=r"expected \.keras or \.h5"):
        load_keras(tmp_path / name)


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _noise_in_the_middle(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(byte ^ 0x55 for byte in data[middle : middle + 2000]) + data[middle + 2000 :]


def _noise_at_the_start(data: bytes) -> bytes:
    return bytes(byte ^ 0x55 for byte in data[:200]) + data[200:]


@pytest.mark.parametrize(
    "damage", [_cut, _noise_in_the_middle, _noise_at_the_start, lambda data: b"", lambda data: b"no zip"]
)
def test_damaged_model_is_corrupt(trained: Trained, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(damage(trained.path.read_bytes()))
    with pytest.raises(Corrupt, match=r"model\.keras cannot be loaded"):
        load_keras(path)


def test_archive_that_is_no_model_is_corrupt(keras: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing here")
    with pytest.raises(Corrupt, match=r"model\.keras cannot be loaded"):
        load_keras(path)


def test_outputs_that_do_not_match_the_labels_are_refused(keras: Any, small: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="7 outputs, digits 10 labels"):
        _begin(digits_net(keras, 28, 28, classes=7), small, tmp_path)


def test_colour_model_for_grey_images_is_refused(keras: Any, small: Dataset, tmp_path: Path) -> None:
    image = keras.Input((28, 28, 3))
    with pytest.raises(InvalidInput, match=r"colour images \(1, 28, 28, 3\), those of digits are grey"):
        _begin(keras.Model(image, keras.layers.Dense(10)(keras.layers.Flatten()(image))), small, tmp_path)


def test_input_with_free_axes_is_refused(keras: Any) -> None:
    image = keras.Input((None, None, 1))
    pooled = keras.layers.GlobalAveragePooling2D()(image)
    with pytest.raises(InvalidInput, match="free axes"):
        wrap_keras(keras.Model(image, keras.layers.Dense(10)(pooled)), name="free.keras")


def test_weights_that_are_nan_are_refused(keras: Any, small: Dataset, tmp_path: Path) -> None:
    model = digits_net(keras, 28, 28, classes=10)
    model.set_weights([np.full_like(weight, np.nan) for weight in _weights(model)])
    with pytest.raises(Refused, match="NaN or infinity"):
        _begin(model, small, tmp_path)


@pytest.mark.parametrize("case", ["labels", "nan"])
def test_refused_model_leaves_nothing(keras: Any, small: Dataset, tmp_path: Path, case: str) -> None:
    model = digits_net(keras, 28, 28, classes=7 if case == "labels" else 10)
    if case == "nan":
        model.set_weights([np.full_like(weight, np.nan) for weight in _weights(model)])
    with pytest.raises(EdgeloopError):
        _begin(model, small, tmp_path / "build")
    assert not (tmp_path / "build").exists()


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_build_folder_of_another_model_is_refused(trained: Trained, keras: Any, small: Dataset) -> None:
    model = digits_net(keras, 28, 28, classes=10)
    with pytest.raises(InvalidInput, match="holds variants of another model"):
        _begin(model, small, trained.folder_path)


def test_build_folder_of_another_model_is_left_as_it_is(trained: Trained, keras: Any, small: Dataset) -> None:
    before = _files(trained.folder_path)
    with pytest.raises(InvalidInput):
        _begin(digits_net(keras, 28, 28, classes=10), small, trained.folder_path)
    assert _files(trained.folder_path) == before


# ---- other people's models


def _softmax_in_dense(keras: Any) -> KerasModel:
    image = keras.Input((28, 28, 1))
    return keras.Model(image, keras.layers.Dense(10, activation="softmax")(keras.layers.Flatten()(image)))


def _softmax_as_layer(keras: Any) -> KerasModel:
    layers = keras.layers
    return keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten(), layers.Dense(10), layers.Softmax()])


@pytest.mark.parametrize("make", [_softmax_in_dense, _softmax_as_layer])
def test_model_that_ends_with_softmax_needs_no_activation(
    keras: Any, small: Dataset, tmp_path: Path, make: Callable[[Any], KerasModel]
) -> None:
    assert _begin(make(keras), small, tmp_path).output.activation is Activation.NONE


def test_model_without_a_features_layer_ships_no_reference(keras: Any, small: Dataset, tmp_path: Path) -> None:
    image = keras.Input((28, 28, 1))
    model = keras.Model(image, keras.layers.Dense(10)(keras.layers.Flatten()(image)))
    build = _begin(model, small, tmp_path)
    assert (build.reference, build.output.features) == (None, None)


def test_model_that_ends_with_a_nested_model_is_taken(keras: Any, small: Dataset, tmp_path: Path) -> None:
    head = keras.Sequential([keras.Input((784,)), keras.layers.Dense(10)])
    image = keras.Input((28, 28, 1))
    model = keras.Model(image, head(keras.layers.Flatten()(image)))
    assert _begin(model, small, tmp_path).output.activation is Activation.SOFTMAX
