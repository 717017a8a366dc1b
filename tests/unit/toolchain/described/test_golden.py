import io
import wave
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.bundle.archive import digest
from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound
from edgeloop.contracts.manifest import InputSpec, Modality
from edgeloop.contracts.preprocess import Grey, Interpolation, Resample, ResampleQuality, Resize, Step, Window
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.input.arrays import ArrayFront
from edgeloop.runtime.input.images import encode_png
from edgeloop.runtime.input.pixels import PixelFront
from edgeloop.runtime.input.port import Front
from edgeloop.runtime.input.series import SeriesFront
from edgeloop.runtime.input.sound import SoundFront
from edgeloop.toolchain.described.golden import GoldenInputs, gather_golden, spread

IMAGE = InputSpec("image", Modality.IMAGE, (1, 8, 8, 1), "NHWC", (0.0, 255.0))
IMAGE_STEPS: tuple[Step, ...] = (Grey(), Resize(height_px=8, width_px=8, interpolation=Interpolation.AREA))
SOUND = InputSpec("sound", Modality.SOUND, (1, 800), "nt", (-1.0, 1.0), rate_hz=8000)
SERIES = InputSpec("rows", Modality.SERIES, (1, 10, 2), "ntc", (-9.0, 9.0), channels=("x", "y"))
TENSOR = InputSpec("numbers", Modality.TENSOR, (1, 4), "nd", (0.0, 1.0))


def gather(place: Path, spec: InputSpec, *steps: Step) -> GoldenInputs:
    tensor = TensorSpec(spec.name, spec.shape, "float32")
    kinds = {
        Modality.IMAGE: PixelFront,
        Modality.SOUND: SoundFront,
        Modality.SERIES: SeriesFront,
        Modality.TENSOR: ArrayFront,
    }
    front: Front = kinds[spec.modality](spec, steps, tensor)
    return gather_golden(place, spec, steps, front)


def pictures(folder: Path, count: int) -> list[Path]:
    """8x8 grey PNGs, number i of the brightness i."""
    folder.mkdir(exist_ok=True)
    made = [folder / f"{index:03}.png" for index in range(count)]
    for index, path in enumerate(made):
        path.write_bytes(encode_png(np.full((8, 8), index, np.uint8)))
    return made


def write_wav(path: Path, samples: NDArray[np.int16], *, rate_hz: int = 8000) -> None:
    file = io.BytesIO()
    with wave.open(file, "wb") as sink:
        sink.setnchannels(1)
        sink.setsampwidth(2)
        sink.setframerate(rate_hz)
        sink.writeframes(samples.tobytes())
    path.write_bytes(file.getvalue())


def sounds(folder: Path, count: int, length: int = 800, *, rate_hz: int = 8000) -> list[NDArray[np.int16]]:
    made = [np.random.default_rng(index).integers(-9000, 9000, length).astype(np.int16) for index in range(count)]
    for index, samples in enumerate(made):
        write_wav(folder / f"{index:02}.wav", samples, rate_hz=rate_hz)
    return made


# ---- which


@pytest.mark.parametrize(("count", "wanted"), [(5, 9), (9, 9), (10, 9), (100, 32), (33, 32)])
def test_chosen_indices_are_distinct_in_order_and_spread(count: int, wanted: int) -> None:
    made = spread(count, wanted)
    assert len(made) == min(count, wanted)
    assert made == sorted(set(made))
    assert made[0] == 0
    assert max(np.diff(made)) - min(np.diff(made)) <= 1


def test_32_of_many_images_are_chosen_the_same_way_each_time(tmp_path: Path) -> None:
    pictures(tmp_path, 100)
    made = gather(tmp_path, IMAGE, *IMAGE_STEPS)
    assert made.inputs.shape == (32, 8, 8)
    assert made.inputs[:, 0, 0].tolist() == [index * 100 // 32 for index in range(32)]
    assert list(made.sources)[:3] == [f"{tmp_path.name}/{name}.png" for name in ("000", "003", "006")]
    assert (gather(tmp_path, IMAGE, *IMAGE_STEPS).inputs == made.inputs).all()


def test_sources_are_the_hashes_of_the_chosen_files_in_folders_too(tmp_path: Path) -> None:
    (first, *_) = pictures(tmp_path / "b", 10)
    pictures(tmp_path / "a", 10)
    (tmp_path / "notes.txt").write_text("no image")
    made = gather(tmp_path, IMAGE, *IMAGE_STEPS)
    assert next(iter(made.sources)) == f"{tmp_path.name}/a/000.png"
    assert made.sources[f"{tmp_path.name}/b/000.png"] == digest(first.read_bytes())
    assert len(made.sources) == 20


# ---- too few, or not what they should be


@pytest.mark.parametrize(("count", "missing"), [(1, 15), (15, 1)])
def test_fewer_than_16_are_refused_with_how_many_are_missing(tmp_path: Path, count: int, missing: int) -> None:
    pictures(tmp_path, count)
    with pytest.raises(InvalidInput, match=rf"holds {count} images; .* 16 or more real ones: add {missing} more"):
        gather(tmp_path, IMAGE, *IMAGE_STEPS)


def test_folder_without_the_right_kind_of_file_says_what_it_looked_for(tmp_path: Path) -> None:
    sounds(tmp_path, 2)
    with pytest.raises(InvalidInput, match=r"holds no images; expected files ending in \.png, \.jpg"):
        gather(tmp_path, IMAGE, *IMAGE_STEPS)


def test_place_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="photos with golden inputs"):
        gather(tmp_path / "photos", IMAGE, *IMAGE_STEPS)


def test_damaged_file_is_named(tmp_path: Path) -> None:
    pictures(tmp_path, 20)[7].write_bytes(b"not a picture")
    with pytest.raises(Corrupt, match=r"007\.png"):
        gather(tmp_path, IMAGE, *IMAGE_STEPS)


# ---- sounds


def test_sounds_of_one_length_are_taken_as_they_are(tmp_path: Path) -> None:
    samples = sounds(tmp_path, 16)
    made = gather(tmp_path, SOUND)
    assert made.inputs.dtype == np.int16
    assert (made.inputs == np.stack(samples)).all()


def test_a_long_sound_gives_what_a_stream_over_it_would_ask(tmp_path: Path) -> None:
    (whole,) = sounds(tmp_path, 1, 800 + 400 * 15)
    made = gather(tmp_path, SOUND, Window(length=800, hop=400))
    assert (made.inputs == np.stack([whole[400 * index : 400 * index + 800] for index in range(16)])).all()


def test_a_short_sound_is_padded_where_the_manifest_pads(tmp_path: Path) -> None:
    samples = sounds(tmp_path, 16, 500)
    made = gather(tmp_path, SOUND, Window(length=800, hop=400, pad=True))
    assert (made.inputs[:, :500] == np.stack(samples)).all()
    assert not made.inputs[:, 500:].any()


def test_a_short_sound_is_named_where_the_manifest_does_not_pad(tmp_path: Path) -> None:
    sounds(tmp_path, 16)
    write_wav(tmp_path / "short.wav", np.zeros(500, np.int16))
    with pytest.raises(InvalidInput, match=r"short\.wav: "):
        gather(tmp_path, SOUND, Window(length=800, hop=400))


def test_sounds_of_several_lengths_need_a_window(tmp_path: Path) -> None:
    sounds(tmp_path, 16)
    write_wav(tmp_path / "short.wav", np.zeros(500, np.int16))
    with pytest.raises(InvalidInput, match=r'inputs of 500 and of 800 samples; .* step = "window"'):
        gather(tmp_path, SOUND)


def test_sound_of_another_rate_is_named_unless_a_step_resamples(tmp_path: Path) -> None:
    sounds(tmp_path, 16, 1600, rate_hz=16_000)
    with pytest.raises(InvalidInput, match=r"00\.wav: the sound has 16,000 samples a second"):
        gather(tmp_path, SOUND)
    made = gather(tmp_path, SOUND, Resample(quality=ResampleQuality.HIGH))
    assert made.inputs.shape == (16, 800)
    assert made.inputs.dtype == np.float32


# ---- series


def test_tables_are_cut_into_windows_and_columns_picked_by_name(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(45, 2)).round(3)
    lines = ["y,junk,x", *(f"{y},?,{x}".replace("?", "7") for x, y in rows.tolist())]
    for index in range(2):
        (tmp_path / f"{index}.csv").write_text("\n".join(lines))
    made = gather(tmp_path, SERIES, Window(length=10, hop=5))
    assert made.inputs.shape == (16, 10, 2)
    np.testing.assert_array_equal(made.inputs[1], rows[5:15].astype(np.float32))
    np.testing.assert_array_equal(made.inputs[8], rows[:10].astype(np.float32))


def test_too_few_windows_are_counted_as_windows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n" + "1,2\n" * 20)
    with pytest.raises(InvalidInput, match=r"holds 3 windows in 1 files; .* add 13 more"):
        gather(tmp_path, SERIES, Window(length=10, hop=5))


def test_cell_that_is_no_number_is_named_with_file_and_line(tmp_path: Path) -> None:
    for index in range(16):
        (tmp_path / f"{index:02}.csv").write_text("x,y\n" + "1,2\n" * 9 + ("1,two\n" if index == 3 else "1,2\n"))
    with pytest.raises(Corrupt, match=r"03\.csv, line 11, column 'y': 'two'"):
        gather(tmp_path, SERIES)


# ---- arrays


def test_npy_rows_are_inputs_in_float32(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).random((40, 4))
    np.save(tmp_path / "a.npy", rows)
    made = gather(tmp_path / "a.npy", TENSOR)
    assert made.inputs.dtype == np.float32
    np.testing.assert_array_equal(made.inputs, rows[spread(40, 32)].astype(np.float32))
    assert made.sources == {"a.npy": digest((tmp_path / "a.npy").read_bytes())}


@pytest.mark.parametrize("name", ["inputs", "x"])
def test_npz_gives_the_array_called_inputs_or_its_only_one(tmp_path: Path, name: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", **{name: images})
    assert (gather(tmp_path / "a.npz", IMAGE, *IMAGE_STEPS).inputs == images).all()


def test_npz_with_several_arrays_says_how_to_call_the_right_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((16, 4)), y=np.zeros(16))
    with pytest.raises(InvalidInput, match="holds the arrays x, y; call the one with golden inputs 'inputs'"):
        gather(tmp_path / "a.npz", TENSOR)


@pytest.mark.parametrize(
    ("array", "spec", "said"),
    [
        (np.zeros((16, 8, 8), np.float32), IMAGE, "must be a uint8 array"),
        (np.zeros((16, 800), np.int32), SOUND, "int16 or float"),
        (np.zeros((16, 10, 3), np.float32), SERIES, r"\(rows, 2\)"),
        (np.array([["a", "b"]] * 16), TENSOR, "expected numbers"),
        (np.zeros(16), TENSOR, r"expected \(count, ...\)"),
        (np.zeros((3, 4)), TENSOR, "holds 3 inputs; .* add 13 more"),
    ],
)
def test_array_that_is_no_input_is_refused_by_file(
    tmp_path: Path, array: NDArray[np.generic], spec: InputSpec, said: str
) -> None:
    np.save(tmp_path / "a.npy", array)
    steps = IMAGE_STEPS if spec is IMAGE else ()
    with pytest.raises(InvalidInput, match=rf"a\.npy.*{said}"):
        gather(tmp_path / "a.npy", spec, *steps)


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"PK\x03\x04 half a zip"])
def test_damaged_array_file_is_corrupt(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(Corrupt, match=r"a\.npz"):
        gather(tmp_path / "a.npz", TENSOR)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}] * 16, dtype=object), allow_pickle=True)
    with pytest.raises(Corrupt, match=r"a\.npy"):
        gather(tmp_path / "a.npy", TENSOR)


def test_folder_of_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"name a \.npy or \.npz file"):
        gather(tmp_path, TENSOR)
