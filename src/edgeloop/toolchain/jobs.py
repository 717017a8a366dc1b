"""What a worker does for a job: train or retrain, convert to three variants, check, pack."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeloop.contracts.api import JobView, SampleView
from edgeloop.contracts.errors import InvalidInput, NotFound
from edgeloop.contracts.manifest import Manifest, Precision
from edgeloop.contracts.names import BundleRef
from edgeloop.runtime.input.images import decode_image
from edgeloop.runtime.input.preprocess import preprocess
from edgeloop.toolchain.build import BuildFolder
from edgeloop.toolchain.convert.convert import ConvertRecipe, convert
from edgeloop.toolchain.data.dataset import Dataset, Part, Prepared, prepare
from edgeloop.toolchain.data.open import open_dataset
from edgeloop.toolchain.draft import Draft, add_variant, begin_draft
from edgeloop.toolchain.grounds import read_recipe
from edgeloop.toolchain.nets.digits import KerasModel
from edgeloop.toolchain.package import pack
from edgeloop.toolchain.progress import Progress, within
from edgeloop.toolchain.quantize.quantize import quantize
from edgeloop.toolchain.quantize.recipe import QuantizeRecipe
from edgeloop.toolchain.source.keras import load_keras
from edgeloop.toolchain.source.model import Model
from edgeloop.toolchain.targets import Target
from edgeloop.toolchain.train import RetrainRecipe, TrainRecipe, TrainReport, retrain, train_net
from edgeloop.transport.cloud_api import CloudApi

MODEL = "model.keras"
BUNDLE = "bundle.edgeloop"


@dataclass(frozen=True)
class Made:
    """A job's outcome: its files, and figures for people."""

    artifacts: dict[str, bytes]
    report: dict[str, str | int | float | bool]


def do_job(job: JobView, api: CloudApi, *, progress: Progress, data: Path | None = None) -> Made:
    """Do one job. data: the folder whose files jobs may name; see `grounds`. Raises InvalidInput, NotFound or Refused
    if it cannot be done as asked.
    """
    with tempfile.TemporaryDirectory(prefix="edgeloop-job-") as name:
        folder = Path(name)
        if job.kind == "train":
            recipe = read_recipe(job.recipe, TrainRecipe, data=data)
            dataset = open_dataset(recipe.data, source=recipe.source, seed=recipe.seed)
            model, report = train_net(recipe, dataset, progress=within(progress, 0.05, 0.5))
        else:
            asked = read_recipe(job.recipe, RetrainRecipe, data=data)
            model, report, dataset = _retrain(job, asked, api, folder, progress)
        return _finish(job, dataset, model, report, folder, progress)


def _retrain(
    job: JobView, recipe: RetrainRecipe, api: CloudApi, folder: Path, progress: Progress
) -> tuple[KerasModel, TrainReport, Dataset]:
    from edgeloop.toolchain.backend import import_keras

    if job.parent is None:
        raise InvalidInput("a retrain job needs a parent")
    dataset = open_dataset(recipe.data, source=recipe.source, seed=recipe.seed)
    progress(0.02, "fetching the parent and the labelled samples")
    path = folder / "parent.keras"
    path.write_bytes(api.artifact(_job_of(api, job.parent).job_id, MODEL))
    parent = import_keras().saving.load_model(path, safe_mode=True)
    new = labelled_samples(api, _manifest(api, job.parent), dataset.label_names)
    model, report = retrain(recipe, parent, dataset, new, progress=within(progress, 0.1, 0.5))
    return model, report, dataset


def labelled_samples(api: CloudApi, manifest: Manifest, labels: tuple[str, ...]) -> Part:
    """Every labelled image in the cloud, as pixels the way the model takes them. Raises InvalidInput on a label
    that the model does not know."""
    images, indices = [], []
    for view in api.samples(labelled=True, limit=10_000):
        if not view.media.startswith("image/"):
            continue  # a sound or a table, of another model's devices
        images.append(_pixels(api.sample_data(view.sample_id), manifest, view))
        if view.label not in labels:
            raise InvalidInput(f"sample {view.sample_id} is labelled {view.label!r}; known labels: {', '.join(labels)}")
        indices.append(labels.index(view.label))
    height_px, width_px = manifest.input.shape[1:3]
    pixels = np.array(images, np.uint8).reshape(-1, height_px, width_px)
    return Part(pixels, np.array(indices, np.int64))


def _pixels(data: bytes, manifest: Manifest, view: SampleView) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    tensor = preprocess(decode_image(data, what=view.sample_id), manifest.preprocess, manifest.input)
    return np.rint(tensor[0, :, :, 0] * 255).astype(np.uint8)


def _finish(
    job: JobView, dataset: Dataset, model: KerasModel, report: TrainReport, folder: Path, progress: Progress
) -> Made:
    model_path = folder / MODEL
    model.save(model_path)
    source = load_keras(model_path)
    data = prepare(dataset, source.only_input())
    build_folder = BuildFolder(folder / "build")
    progress(0.52, "golden samples and drift reference")
    recipe = {"kind": job.kind, **job.recipe}
    draft = begin_draft(source, data, build_folder, recipe=recipe, parent=job.parent)
    build = _add_variants(draft, source, data, within(progress, 0.55, 0.95)).build
    progress(0.95, "packing")
    ref = BundleRef.parse(job.bundle)
    path = folder / BUNDLE
    pack(folder / "build", name=ref.name, version=ref.version, out=path)
    figures: dict[str, str | int | float | bool] = {
        "accuracy_float": build.accuracy_float,
        "epochs": report.epochs,
        "parameters": report.parameters,
        "new_samples": report.new_samples,
    }
    if report.accuracy is not None:
        figures["validation_accuracy"] = report.accuracy
    return Made({MODEL: model_path.read_bytes(), BUNDLE: path.read_bytes()}, figures)


def _add_variants(draft: Draft, source: Model, data: Prepared, progress: Progress) -> Draft:
    progress(0.0, "converting to litert float32 and checking it")
    litert, _ = convert(source, ConvertRecipe(to=Target.LITERT), data=data)
    draft = add_variant(draft, litert, Precision.FLOAT32)
    progress(0.33, "quantizing to litert int8 and checking it")
    int8, _ = quantize(litert, QuantizeRecipe(precision=Precision.INT8), data)
    draft = add_variant(draft, int8, Precision.INT8)
    progress(0.67, "converting to onnx float32 and checking it")
    onnx, _ = convert(source, ConvertRecipe(to=Target.ONNX), data=data)
    return add_variant(draft, onnx, Precision.FLOAT32)


def _job_of(api: CloudApi, bundle: str) -> JobView:
    for job in api.jobs(bundle=bundle):
        if MODEL in job.artifacts:
            return job
    raise NotFound(f"no job made {bundle}, so its float model is not here; train it through a job first")


def _manifest(api: CloudApi, bundle: str) -> Manifest:
    for view in api.bundles():
        if f"{view.name}@{view.version}" == bundle:
            return view.manifest
    raise NotFound(f"{bundle} is not published")
