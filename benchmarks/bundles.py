"""The bundles that stand for edgeloop: made from the public models by the toolchain, as docs/runtime.md shows it.

Golden samples are cut from what is there: two photos, clips of the test set, digits of
the training images. Each bundle is made once and kept in the cache; `make clean` forgets it.
"""

import subprocess
import sys
import tomllib
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import tomli_w

from benchmarks import data
from benchmarks.context import Context
from benchmarks.hand import cases
from edgeloop.bundle.archive import Bundle, open_bundle
from edgeloop.contracts.preprocess import Resize
from edgeloop.runtime.input.images import encode_png
from edgeloop.toolchain.convert.openvino import to_openvino
from edgeloop.toolchain.convert.uint8 import uint8_to_int8
from edgeloop.toolchain.described.pack import pack_described
from edgeloop.toolchain.quantize.quantize import quantize
from edgeloop.toolchain.quantize.recipe import QuantizeRecipe
from edgeloop.toolchain.source.open import open_model

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"
GOLDEN_CLIPS = 32
"""The last of the test clips."""

_GOLDEN_PHOTOS = 32
_PHOTO_SIDE_PX = 300
_CALIBRATION_PHOTOS = 64
_LITE_NAMES = {"input": "input_1", "boxes": "Identity", "scores": "Identity_1"}
_RATE_HZ = 16_000


def mobilenet_v2(context: Context) -> Path:
    """MobileNetV2 as published, and the same in symmetric int8; JPEGs are decoded in part."""
    return _kept(context, "mobilenet-v2", lambda folder: _mobilenet(context, folder, "mobilenet_v2_1.0_224_quant", 224))


def mobilenet_v1(context: Context) -> Path:
    """MobileNetV1 0.25 at 128 pixels, likewise."""
    return _kept(
        context, "mobilenet-v1", lambda folder: _mobilenet(context, folder, "mobilenet_v1_0.25_128_quant", 128)
    )


def ultraface(context: Context) -> Path:
    """UltraFace for all three engines, and quantized to int8 for two."""
    return _kept(context, "ultraface", lambda folder: _ultraface(context, folder))


def keywords(context: Context) -> Path:
    """MLPerf Tiny's keyword spotting, from raw sound on."""
    return _kept(context, "keywords", lambda folder: _keywords(context, folder))


def _kept(context: Context, name: str, make: Callable[[Path], Path]) -> Path:
    folder = context.cache / "bundles" / name
    bundle = folder / f"{name}.edgeloop"
    if not bundle.is_file():
        context.tell(f"making the bundle {name}")
        folder.mkdir(parents=True, exist_ok=True)
        pack_described(make(folder), out=bundle)
    return bundle


def _mobilenet(context: Context, folder: Path, name: str, side_px: int) -> Path:
    model = data.require(context.assets / "mobilenet" / f"{name}.tflite").read_bytes()
    (folder / f"{name}.tflite").write_bytes(model)
    (folder / "symmetric.tflite").write_bytes(uint8_to_int8(model))
    labels = data.require(context.assets / "mobilenet" / "imagenet_labels.txt").read_text(encoding="utf-8")
    (folder / "imagenet_labels.txt").write_text(labels, encoding="utf-8")
    _write_photos(context, folder / "photos")
    told = _example("mobilenet_v2.toml")
    told["input"]["shape"] = [1, side_px, side_px, 3]
    told["preprocess"][0] |= {"height_px": side_px, "width_px": side_px, "reduced_decode": True}
    told["output"]["threshold"] = 0.0
    told["reference"] = {"file": f"{name}.tflite", **_tensors_of(told["reference"])}
    told["variants"] = [
        {"file": file, "precision": "int8", **_tensors_of(told["variants"][0])}
        for file in (f"{name}.tflite", "symmetric.tflite")
    ]
    return _write(folder, told)


def _ultraface(context: Context, folder: Path) -> Path:
    source = data.require(context.assets / "ultraface" / "version-RFB-320_without_postprocessing.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(source)
    lite = data.require(context.assets / "ultraface" / "version-RFB-320_without_postprocessing.tflite")
    (folder / "model.tflite").write_bytes(lite.read_bytes())
    (folder / "model.openvino").write_bytes(to_openvino(source))
    crops = data.photo_crops(context.assets, _CALIBRATION_PHOTOS, side_px=_PHOTO_SIDE_PX, seed=7)
    real = np.stack([cv2.resize(crop, (320, 240)) for crop in crops]).astype(np.float32)
    calibration = np.ascontiguousarray((np.moveaxis(real, -1, 1) - 127) / 128)
    for name in ("model.onnx", "model.openvino"):
        made, _ = quantize(open_model(folder / name), QuantizeRecipe(), calibration)
        (folder / name.replace("model", "int8")).write_bytes(made.data)
    _write_photos(context, folder / "photos")
    told = _example("ultraface.toml")
    told["preprocess"][0]["reduced_decode"] = True
    told["variants"] = [
        {"file": "model.onnx", "precision": "float32"},
        {"file": "model.openvino", "precision": "float32"},
        {"file": "model.tflite", "precision": "float32", "tensors": _LITE_NAMES},
        {"file": "int8.onnx", "precision": "int8"},
        {"file": "int8.openvino", "precision": "int8"},
    ]
    return _write(folder, told)


def _keywords(context: Context, folder: Path) -> Path:
    for name in ("kws_ref_model.tflite", "kws_ref_model_float32.tflite"):
        (folder / name).write_bytes(data.require(context.assets / "mlperf_tiny" / name).read_bytes())
    clips = folder / "clips"
    clips.mkdir(exist_ok=True)
    samples, _ = cases.raw_clips(context.assets, 1000)
    for index, clip in enumerate(samples[-GOLDEN_CLIPS:]):
        with wave.open(str(clips / f"{index:02d}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(_RATE_HZ)
            file.writeframes(clip.astype("<i2").tobytes())
    told = _example("keyword_spotting.toml")
    told["output"]["threshold"] = 0.0
    return _write(folder, told)


def _write_photos(context: Context, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for index, crop in enumerate(data.photo_crops(context.assets, _GOLDEN_PHOTOS, side_px=_PHOTO_SIDE_PX, seed=3)):
        (folder / f"{index:02d}.png").write_bytes(encode_png(crop))


def _example(name: str) -> dict[str, Any]:
    return tomllib.loads((EXAMPLES / name).read_text(encoding="utf-8"))


def _tensors_of(model: dict[str, Any]) -> dict[str, Any]:
    return {"tensors": model["tensors"]} if "tensors" in model else {}


def _write(folder: Path, told: dict[str, Any]) -> Path:
    path = folder / "bundle.toml"
    path.write_bytes(tomli_w.dumps(told).encode())
    return path


def digits(context: Context) -> tuple[Path, Path]:
    """The demo's digits: int8 for LiteRT, trained on the bundled digits. The bundle, and its bare .tflite file."""
    folder = context.cache / "bundles" / "digits"
    bundle, model = folder / "digits.edgeloop", folder / "digits.tflite"
    if not (bundle.is_file() and model.is_file()):
        context.tell("making the bundle digits")
        folder.mkdir(parents=True, exist_ok=True)
        edgeloop = [sys.executable, "-m", "edgeloop"]
        variants = folder / "variants"
        for arguments in (
            ("train", "digits", "--out", str(folder / "model.keras")),
            ("convert", str(folder / "model.keras"), "--to", "litert", "--precision", "int8", "--calibrate", "digits",
             "--out", f"{variants}/"),
            ("pack", f"{variants}/", "--name", "digits", "--version", "1.0.0", "--out", str(bundle)),
        ):  # fmt: skip
            subprocess.run([*edgeloop, *arguments], check=True, capture_output=True)  # noqa: S603 - our own commands
        opened = open_bundle(bundle)
        model.write_bytes(opened.read(opened.manifest.variants[0].file))
    return bundle, model


def decoded_whole(bundle: Path) -> Bundle:
    """The same bundle, but JPEGs are decoded at their full size."""
    opened = open_bundle(bundle)
    first = opened.manifest.preprocess[0]
    if not isinstance(first, Resize):
        raise TypeError(f"{bundle.name} does not begin with a resize")
    steps = (msgspec.structs.replace(first, reduced_decode=False), *opened.manifest.preprocess[1:])
    opened.manifest = msgspec.structs.replace(opened.manifest, preprocess=steps)
    return opened
