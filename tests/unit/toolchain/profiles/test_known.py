import math

import pytest

from edgeloop.contracts.manifest import EngineName, Precision
from edgeloop.toolchain.profiles.known import KNOWN
from edgeloop.toolchain.profiles.target import TargetProfile, fits


def test_the_promised_devices_are_known() -> None:
    assert set(KNOWN) == {"pi4", "pi5", "jetson-orin-nano", "x86-n100", "coral-tpu", "esp32-s3"}


@pytest.mark.parametrize("profile", KNOWN.values(), ids=KNOWN)
def test_every_figure_has_a_source(profile: TargetProfile) -> None:
    assert profile.sources
    for speed in profile.speeds:
        assert speed.points
        assert not speed.measured
        assert all(point.source for point in speed.points)


@pytest.mark.parametrize("profile", KNOWN.values(), ids=KNOWN)
def test_a_speed_lies_among_the_published_ones(profile: TargetProfile) -> None:
    for speed in profile.speeds:
        each = [1e3 * point.multiply_adds / point.latency_ms for point in speed.points]
        assert min(each) * (1 - 1e-9) <= speed.multiply_adds_per_s <= max(each) * (1 + 1e-9)


def test_edge_tpu_takes_integer_models_only() -> None:
    assert fits(KNOWN["coral-tpu"], size_bytes=1, precision=Precision.INT8, engine=EngineName.LITERT) == ()
    assert fits(KNOWN["coral-tpu"], size_bytes=1, precision=Precision.FLOAT32, engine=EngineName.LITERT) == (
        "it computes in int8, not in float32",
    )


def test_person_detector_has_the_multiply_adds_that_its_layers_say() -> None:
    """MobileNet v1 (arXiv 1704.04861, table 1) at a quarter of the width on 96 x 96 grey, two classes."""
    blocks = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    side, channels = 48, 8
    total = side * side * 9 * channels
    for wide, stride in blocks:
        side = math.ceil(side / stride)
        total += side * side * channels * (9 + wide // 4)
        channels = wide // 4
    total += channels * 2
    (speed,) = KNOWN["esp32-s3"].speeds
    assert speed.points[0].multiply_adds == pytest.approx(total, rel=1e-3)


def _detector(
    backbone: float, base_px: int, side_px: int, *, width: int, cells: int, channels: tuple[int, ...]
) -> float:
    """Multiply-adds of an EfficientDet (arXiv 1911.09070, section 4): backbone without its classifier, BiFPN, heads.

    backbone: published, at base_px, with a head of 1,280 channels and 1,000 classes. channels: of levels 3, 4 and 5.
    """
    head = channels[-1] * 1280 * math.ceil(base_px / 32) ** 2 + 1280 * 1000
    sides = [side_px]
    for _ in range(7):
        sides.append(math.ceil(sides[-1] / 2))
    p3, p4, p5, p6, p7 = (side * side for side in sides[3:])
    resampled = width * (channels[0] * p3 + 2 * channels[1] * p4 + 3 * channels[2] * p5)
    separable = 9 * width + width * width
    pyramid = cells * separable * (2 * (p4 + p5 + p6) + p3 + p7)
    last = (9 * width + width * 9 * 90) + (9 * width + width * 9 * 4)
    heads = (p3 + p4 + p5 + p6 + p7) * (2 * 3 * separable + last)
    return (backbone - head) * (side_px / base_px) ** 2 + resampled + pyramid + heads


def test_detectors_have_the_multiply_adds_that_their_parts_say() -> None:
    points = {point.network: point.multiply_adds for point in KNOWN["pi4"].speeds[0].points}
    # Backbones: github.com/tensorflow/tpu, models/official/efficientnet/lite, 'MAdds'.
    expected = {
        "EfficientDet-Lite0": _detector(407e6, 224, 320, width=64, cells=3, channels=(40, 112, 320)),
        "EfficientDet-Lite1": _detector(631e6, 240, 384, width=88, cells=4, channels=(40, 112, 320)),
        "EfficientDet-Lite2": _detector(899e6, 260, 448, width=112, cells=5, channels=(48, 120, 352)),
    }
    assert points == pytest.approx(expected, rel=1e-3)


def test_that_arithmetic_gives_the_published_figure_of_the_one_detector_that_has_one() -> None:
    # EfficientDet-D0: 2.54 billion (github.com/google/automl, efficientdet, section 2); EfficientNet-B0: 390 million.
    # Within 2 %: the paper's backbone has squeeze-and-excitation, which its 390 million include and a Lite has not.
    found = _detector(390e6, 224, 512, width=64, cells=3, channels=(40, 112, 320))
    assert found == pytest.approx(2.54e9, rel=0.02)
