import pytest

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import Precision, Tolerance
from edgeloop.contracts.output import Output
from edgeloop.contracts.preprocess import Resize, Step
from edgeloop.contracts.strict import Strict
from edgeloop.toolchain.described.toml import decode_toml

DETECTION = """
[output]
task = "detection"
boxes = "b"
scores = "s"
activation = "none"
threshold = 0.5
iou_threshold = 0.5
decode = { decode = "boxes", corners = "xyxy", normalized = true }
"""


class Document(Strict, frozen=True, kw_only=True):
    output: Output
    preprocess: tuple[Step, ...] = ()
    tolerance: dict[Precision, Tolerance] = {}


def refusal(text: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        decode_toml(text, Document, what="faces.toml")
    assert str(caught.value).startswith("faces.toml")
    return str(caught.value)


def resize(**changed: str) -> str:
    keys = {"step": '"resize"', "height_px": "3", "width_px": "4", "interpolation": '"area"'} | changed
    return "\n".join(["[[preprocess]]", *(f"{name} = {value}" for name, value in keys.items()), DETECTION])


def test_what_fits_is_decoded() -> None:
    made = decode_toml(resize(), Document, what="faces.toml")
    assert made.preprocess == (Resize(height_px=3, width_px=4, interpolation="area"),)
    assert made.preprocess[0].interpolation == "area"


def test_text_that_is_no_toml_is_refused_with_the_line() -> None:
    assert "is not TOML" in refusal("name = \n")
    assert "line 1" in refusal("name = \n")


def test_unknown_key_is_named_with_its_place_what_is_known_and_what_is_close() -> None:
    said = refusal(resize(heigth="3"))
    assert "in preprocess number 1: unknown key 'heigth'" in said
    assert "known there: step, height_px, width_px, interpolation, reduced_decode" in said
    assert "did you mean 'height_px'?" in said


def test_unknown_key_at_the_top_is_named() -> None:
    assert "unknown key 'outputs'" in refusal(DETECTION + "[outputs]\n")


def test_unknown_key_deep_in_a_chosen_union_member_knows_that_members_keys() -> None:
    said = refusal(DETECTION.replace('corners = "xyxy"', 'corner = "xyxy"'))
    assert "in output, decode: unknown key 'corner'; known there: decode, corners, normalized" in said


def test_unknown_step_lists_the_steps() -> None:
    said = refusal(resize(step='"resise"'))
    assert "in preprocess number 1, step: 'resise' is not known; known there: grey, colour, resize" in said
    assert "did you mean 'resize'?" in said


def test_missing_step_lists_the_steps() -> None:
    assert "the key 'step' is missing; known: grey, colour" in refusal("[[preprocess]]\nheight_px = 3\n" + DETECTION)


def test_missing_key_is_named() -> None:
    assert "in output: the key 'scores' is missing" in refusal(DETECTION.replace('scores = "s"\n', ""))


def test_unknown_task_lists_the_tasks() -> None:
    said = refusal(DETECTION.replace('"detection"', '"detektion"'))
    assert "'detektion' is not known; known there: classification, detection, regression" in said


def test_unknown_word_of_an_enumeration_lists_its_words() -> None:
    said = refusal(resize(interpolation='"bilinear"'))
    assert "in preprocess number 1, interpolation: 'bilinear' is not known; known there: area, cubic, linear" in said


def test_unknown_key_of_a_table_by_precision_lists_the_precisions() -> None:
    said = refusal(DETECTION + "[tolerance.int9]\nmax_abs_error = 1.0\n")
    assert "in tolerance: 'int9' is not known; known there: float32, float16, int16, int8" in said


def test_unknown_key_within_a_precision_knows_the_tolerances_keys() -> None:
    said = refusal(DETECTION + "[tolerance.int8]\nmax_error = 1.0\n")
    assert "in tolerance: unknown key 'max_error'; known there: max_abs_error, mean_abs_error, min_agreement" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (resize(height_px="0"), "in preprocess number 1, height_px: expected `int` >= 1"),
        (resize(height_px='"3"'), "in preprocess number 1, height_px: expected `int`, got `str`"),
        (resize(height_px="2.5"), "in preprocess number 1, height_px: expected `int`, got `float`"),
        ("preprocess = 3\n" + DETECTION, "in preprocess: expected `array`, got `int`"),
        ("output = 3\n", "in output: expected `object`, got `int`"),
        (DETECTION.replace("0.5", "inf"), "in output, threshold: expected a finite number"),
        (resize(height_px="nan"), "in preprocess number 1, height_px: expected a finite number"),
    ],
)
def test_value_of_another_kind_is_told_with_its_place(text: str, said: str) -> None:
    assert said in refusal(text)
