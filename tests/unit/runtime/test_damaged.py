"""A damaged bundle is caught by its hashes, before an engine is given a byte of it.

LiteRT's loader may end the process on a model that is not sound, so what is asserted here is also that this process
lives on.
"""

import contextlib
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from builders import Parts, pack
from edgeloop.bundle.archive import open_bundle
from edgeloop.bundle.arrays import from_npy
from edgeloop.contracts.errors import Corrupt
from edgeloop.contracts.manifest import EngineName
from edgeloop.runtime.load import load
from fuzz_models import sound_parts

FLIPS = 200


@pytest.fixture(scope="module")
def parts() -> Parts:
    """A bundle with a variant for LiteRT, among others."""
    return sound_parts()[-1]


@pytest.fixture(scope="module")
def model(parts: Parts) -> bytes:
    (variant,) = (one for one in parts.manifest.variants if one.engine is EngineName.LITERT)
    return parts.files[variant.file]


def _answer(path: Path) -> Any:
    predictor = load(path, engine="litert", race_s=0)
    bundle = open_bundle(path)
    sample = from_npy(bundle.read(bundle.manifest.golden.inputs), what="golden inputs")[0]
    return predictor.predict(sample).label, np.round(predictor.last_basis(), 6).tolist()


def _flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def test_any_bit_of_a_bundle_that_flips_is_corrupt_or_says_nothing(parts: Parts, model: bytes, tmp_path: Path) -> None:
    path = pack(parts, tmp_path)
    whole = path.read_bytes()
    expected = _answer(path)
    begin = 8 * whole.index(model)
    rng = Random(11)
    # Half of them in the model that is loaded, wherever they come in the rest.
    bits = [rng.randrange(begin, begin + 8 * len(model)) for _ in range(FLIPS // 2)]
    bits += [rng.randrange(8 * len(whole)) for _ in range(FLIPS // 2)]
    for bit in bits:
        path.write_bytes(_flipped(whole, bit))
        if begin <= bit < begin + 8 * len(model):
            with pytest.raises(Corrupt):
                _answer(path)
            continue
        with contextlib.suppress(Corrupt):
            assert _answer(path) == expected, bit


def test_model_whose_zip_checksum_was_mended_is_corrupt_by_its_hash(parts: Parts, model: bytes, tmp_path: Path) -> None:
    path = pack(parts, tmp_path)
    with zipfile.ZipFile(path) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    rng = Random(12)
    for _ in range(FLIPS):
        damaged = _flipped(model, rng.randrange(8 * len(model)))
        with zipfile.ZipFile(path, "w") as archive:
            for info, data in members:
                archive.writestr(info, damaged if data == model else data)
        with pytest.raises(Corrupt, match=r"file \w+ of .* is damaged: its content does not match its hash"):
            load(path, engine="litert", race_s=0)


@pytest.mark.parametrize("race_s", [0.0, 0.1])
def test_damaged_variant_is_corrupt_and_not_passed_over(
    parts: Parts, model: bytes, tmp_path: Path, race_s: float
) -> None:
    path = pack(parts, tmp_path)
    whole = path.read_bytes()
    path.write_bytes(_flipped(whole, 8 * (whole.index(model) + len(model) // 2)))
    with pytest.raises(Corrupt):
        load(path, race_s=race_s)


def test_bundle_that_is_damaged_after_its_winner_was_remembered_is_corrupt(parts: Parts, tmp_path: Path) -> None:
    path = pack(parts, tmp_path)
    model = parts.files[load(path, race_s=0.1).variant.file]
    whole = path.read_bytes()
    path.write_bytes(_flipped(whole, 8 * (whole.index(model) + len(model) // 2)))
    with pytest.raises(Corrupt):
        load(path)
