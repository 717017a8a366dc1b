"""The runtime's benchmarks: the loops by hand answer right, the scene is as it says, servers are asked and ended."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
from ai_edge_litert import schema_py_generated as schema
from benchmarks import first_answer, memory, photos
from benchmarks.answers.still import fewest_computed
from benchmarks.hand import cases, digits, faces, keywords
from benchmarks.hand.cases import Case, share_right
from benchmarks.serve_load import Tally
from benchmarks.servers import models, peers
from benchmarks.servers.apart.served_model import MODEL, ServedModel
from benchmarks.servers.measure import in_turns, summed_up
from benchmarks.servers.peers import Launch, Peer, Served
from numpy.typing import NDArray
from tests.assets import assets_or_skip

from small_litert import SmallLiteRt

PHOTOS = ("mobilenet/cat.bmp", "mobilenet/grace_hopper.bmp")
CLIPS = "speech_commands/td_samples_16k_int16.npz.xz"
REFERENCE = "speech_commands/kws01_mfcc_int8.npz"
IMAGES, LABELS = "mnist/t10k-images-idx3-ubyte.gz", "mnist/t10k-labels-idx1-ubyte.gz"

# A server that answers as LitServe does, and has a child in a session of its own, as BentoML's workers are.
SERVER = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self): self.reply(str(child.pid).encode())
    def do_POST(self):
        sent = self.rfile.read(int(self.headers["content-length"]))
        self.reply(b'{"label":%d,"sent":%d}' % (int(sys.argv[2]), len(sent)))
    def reply(self, body):
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def quadrants(tmp_path: Path) -> Path:
    """(1, 28, 28, 1) int8, as digits in int8 take it, to the means of its four quadrants, (1, 4)."""
    net = SmallLiteRt()
    stored = {"dtype": "int8", "scale": 1 / 255, "zero_point": -128}
    image = net.tensor("image", [1, 28, 28, 1], **stored)
    pool = schema.Pool2DOptionsT()
    pool.strideH = pool.strideW = pool.filterHeight = pool.filterWidth = 14
    pool.padding = schema.Padding.VALID
    means = net.operator("AVERAGE_POOL_2D", [image], [net.tensor("means", [1, 2, 2, 1], **stored)], pool)
    shape = net.tensor("shape", [2], dtype="int32", values=[1, 4])
    row = net.operator("RESHAPE", [*means, shape], [net.tensor("row", [1, 4], **stored)], schema.ReshapeOptionsT())
    path = tmp_path / "quadrants.tflite"
    path.write_bytes(net.to_bytes([image], row))
    return path


@pytest.fixture
def served() -> Served:
    tensor = np.arange(784, dtype=np.uint8).reshape(1, 28, 28, 1)
    return Served("digits", Path("model.tflite"), tensor[0, :, :, 0], tensor, 7)


def test_digits_by_hand_find_the_brightest_quadrant(quadrants: Path) -> None:
    by_array, by_png = digits.make(quadrants), digits.make_from_png(quadrants)
    rng = np.random.default_rng(0)
    for expected in range(4):
        image = bright_in(expected, rng)
        assert by_array(image) == expected
        assert by_png(cases.as_png(image)) == expected


@pytest.mark.parametrize(
    ("build", "files"),
    [
        (cases.mobilenet_v1, ("mobilenet/mobilenet_v1_0.25_128_quant.tflite", *PHOTOS)),
        (cases.mobilenet_v2, ("mobilenet/mobilenet_v2_1.0_224_quant.tflite", *PHOTOS)),
        (cases.ultraface, ("ultraface/version-RFB-320_without_postprocessing.tflite", *PHOTOS)),
        (cases.keyword_spotting, ("mlperf_tiny/kws_ref_model.tflite", CLIPS)),
    ],
    ids=["mobilenet_v1", "mobilenet_v2", "ultraface", "keyword_spotting"],
)
def test_loop_by_hand_answers_what_is_known_of_its_inputs(
    build: Callable[[Path], Case], files: tuple[str, ...]
) -> None:
    case = build(assets_or_skip(*files))
    assert share_right(case.loop, case.questions) >= case.least_right


def test_questions_tell_a_wrong_answer(quadrants: Path) -> None:
    case = cases.digits_from_array(assets_or_skip(IMAGES, LABELS), quadrants)
    assert share_right(lambda _: "seven", case.questions) == 0.0
    assert share_right(case.loop, case.questions) < case.least_right


def test_features_by_hand_are_mlperf_tinys_own() -> None:
    assets = assets_or_skip(CLIPS, REFERENCE)
    samples, _ = cases.raw_clips(assets, 100)
    with np.load(assets / REFERENCE) as stored:
        expected = stored["X"][:100, :, :, 0]
    features = keywords.make_features()
    scale, zero_point = 0.5847029089927673, 83
    made = np.stack([np.clip(features(clip) / scale + zero_point, -128, 127).astype(np.int8) for clip in samples])
    # Float32 sums in another order land on the other side of a whole number now and then.
    assert (made == expected).mean() >= 0.995


def test_silence_has_finite_features() -> None:
    assert np.isfinite(keywords.make_features()(np.zeros(16_000, np.int16))).all()


def test_mel_filters_and_cosines_are_tensorflows_by_definition() -> None:
    weights = keywords.mel_filters()
    assert weights.shape == (257, 40)
    centre_hz = 700 * np.expm1(np.linspace(np.log1p(20 / 700), np.log1p(4000 / 700), 42)[1:-1])
    peaks_hz = weights.argmax(axis=0) * 8000 / 256
    assert np.abs(peaks_hz - centre_hz).max() <= 8000 / 256 / 2 + 1  # a filter peaks at the bin nearest its centre
    direct = [[np.cos(np.pi * k * (2 * n + 1) / 80) * np.sqrt(2 / 40) for k in range(10)] for n in range(40)]
    assert np.abs(keywords.dct_table() - direct).max() < 1e-6


def test_anchors_are_decoded_to_themselves_without_offsets() -> None:
    anchors = faces.all_anchors()
    assert anchors.shape == (4420, 4)
    first = faces.decoded(np.zeros_like(anchors), anchors)[0]
    # The first cell's middle is 4 of 320 and 4 of 240 pixels in; its smallest anchor is of 10 pixels.
    assert first == pytest.approx([0.0, 0.0, 9 / 320, 9 / 240], abs=1e-6)


def test_suppression_keeps_what_opencv_keeps() -> None:
    rng = np.random.default_rng(3)
    corners = rng.uniform(0, 200, (60, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(20, 90, (60, 2))], axis=1).astype(np.float32)
    scores = rng.uniform(0.71, 1.0, 60).astype(np.float32)
    as_rectangles = [(left, top, right - left, bottom - top) for left, top, right, bottom in boxes.tolist()]
    expected = cv2.dnn.NMSBoxes(as_rectangles, scores.tolist(), faces.THRESHOLD, faces.IOU_THRESHOLD)
    assert faces.suppressed(boxes, scores) == list(expected)


def test_iou_of_two_boxes() -> None:
    assert cases.iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert cases.iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0.0


def test_camera_jpeg_is_of_camera_size() -> None:
    assets = assets_or_skip(*PHOTOS)
    jpeg = photos.camera_jpeg(assets, photos.CAT)
    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert max(pixels.shape) == 1280
    assert 150_000 < len(jpeg) < 400_000
    assert jpeg == photos.camera_jpeg(assets, photos.CAT)


def test_still_scene_is_four_fifths_still_and_noise_alone_changes_there() -> None:
    frames = list(photos.still_scene(assets_or_skip(*PHOTOS), 50))
    assert sum(frame.changed for frame in frames) == 10
    assert len({frame.pixels.tobytes() for frame in frames}) == 50
    for before, frame in pairwise(frames):
        apart = (frame.pixels.astype(np.float32) - before.pixels).std()
        if frame.changed:
            assert apart > 2 * photos.NOISE
        else:
            # Two independent noises of 3.0, rounded to whole steps and cut at the ends of the range.
            assert apart == pytest.approx(photos.NOISE * 2**0.5, rel=0.1)


@pytest.mark.parametrize(("most_changed", "computed"), [(0, 9), (1, 6), (2, 6), (3, 3), (9, 3)])
def test_views_that_flicker_least_are_the_first_to_stand_for_themselves(most_changed: int, computed: int) -> None:
    answers = "aaaabbcbdeed"  # 0, 1 and 2 frames of them say otherwise than the others
    is_new = [place % 4 == 0 for place in range(len(answers))]
    assert fewest_computed(is_new, answers, most_changed=most_changed) == computed


def test_path_stays_within_its_photo_and_shows_both() -> None:
    sizes, margin = [(1280, 852), (1092, 1280)], 2
    views = list(photos.path(250, sizes, np.random.default_rng(1), margin_px=margin))
    assert {view.photo for view in views} == {0, 1}
    for view in views:
        width, height = sizes[view.photo]
        assert margin <= view.left <= width - 640 - margin
        assert margin <= view.top <= height - 480 - margin
    changed = [index == 0 or view != views[index - 1] for index, view in enumerate(views)]
    assert sum(changed) == 50


def test_bodies_carry_the_tensor(served: Served) -> None:
    headers, body = peers.raw_body(served)
    assert (dict(headers)["content-type"], body) == ("application/octet-stream", served.tensor.tobytes())
    assert base64.b64decode(json.loads(peers.base64_json(served)[1])["tensor"]) == served.tensor.tobytes()
    (tensor,) = json.loads(peers.open_inference(served)[1])["inputs"]
    assert base64.b64decode(tensor["data"][0]) == served.tensor.tobytes()
    assert dict(peers.pixel_body(served)[0])["x-shape"] == "28,28"


def test_one_label_is_not_taken_for_another_that_begins_like_it() -> None:
    answers = {
        "LitServe": '{"label":28,"score":0.5}',
        "LitServe fast_queue": '{"label":28,"score":0.5}',
        "BentoML": '{"label": 28, "score": 0.5}',
        "BentoML route": '{"label":28,"score":0.5}',
        "MLServer": '{"outputs":[{"name":"label","shape":[1],"datatype":"INT64","data":[28]}]}',
        "MLServer route": '{"label":28,"score":0.5}',
    }
    assert {peer.title for peer in peers.PEERS} == set(answers)
    for peer in peers.PEERS:
        assert peer.holds(28) in answers[peer.title]
        assert peer.holds(2) not in answers[peer.title]


def test_ours_is_started_as_a_person_does(served: Served, tmp_path: Path) -> None:
    peer = peers.edgeloop(tmp_path / "digits.edgeloop", "7", "--threads", "1")
    command, _ = peer.start(Launch(served, tmp_path, (8123, 8124), 2))
    assert command[1:4] == ["-m", "edgeloop", "serve"]
    assert command[-4:] == ["--port", "8123", "--threads", "1"]
    assert peer.holds(3) == '"label":"7"'


def test_served_model_answers_from_the_tensors_bytes(quadrants: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODEL, str(quadrants))
    image = np.full((1, 28, 28, 1), -128, np.int8)
    image[0, 14:, 14:] = 127
    assert ServedModel().answer(image.tobytes()) == {"label": 3, "score": pytest.approx(1.0)}


def test_served_digit_is_stored_as_its_file_stores_it(quadrants: Path) -> None:
    made = models.served_digits(assets_or_skip(IMAGES, LABELS), quadrants)
    assert made.label == 7
    assert made.tensor.shape == (1, 28, 28, 1)
    assert (made.tensor[0, :, :, 0].astype(int) + 128 == made.pixels).all()


def test_server_is_asked_and_ended_with_all_it_started(served: Served, tmp_path: Path) -> None:
    with peers.start(stand_in(7), served, tmp_path) as server:
        started = [psutil.Process(server.pid), *psutil.Process(server.pid).children()]
        assert len(started) == 2
        (load,) = in_turns({"it": server}, clients=2, rounds=1, turn_s=0.1).values()
        assert load.requests_per_s > 0
        assert load.errors == 0
    assert [process for process in started if process.is_running()] == []


def test_server_that_answers_wrong_is_refused_and_ended(served: Served, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="wrong answer"):
        peers.start(stand_in(4), served, tmp_path)
    assert not any(str(tmp_path) in (child.cwd() or "") for child in psutil.Process().children())


def test_server_that_ends_says_its_last_words(served: Served, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    peer = replace(stand_in(7), start=lambda _: (command, {}))
    with pytest.raises(RuntimeError, match="no such model"):
        peers.start(peer, served, tmp_path)


def test_load_is_the_median_of_its_rounds() -> None:
    turns = [Tally(latencies_ms=[1.0 * k] * 10 * k, seconds=1.0, cpu_seconds=0.1 * k) for k in (1, 2, 9)]
    turns[0].errors["wrong answer"] += 3
    load = summed_up(turns)
    assert (load.requests_per_s, load.p50_ms, load.p99_ms, load.errors) == (20.0, 2.0, 2.0, 3)
    assert load.generator_cores == pytest.approx(0.2)


def test_first_answer_by_hand_is_given_in_a_fresh_process(quadrants: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(cases.as_png(bright_in(2, np.random.default_rng(0))))
    made = first_answer.first_answers({"hand": first_answer.by_hand(quadrants, image)}, rounds=1)["hand"]
    assert made.label == "2"
    assert 0 < made.inside_ms < made.waited_ms


def test_first_answer_that_fails_or_wavers_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no model"):
        first_answer.first_answers({"it": [sys.executable, "-c", "raise SystemExit('no model')"]}, rounds=1)
    wavers = """import os; print('{"label": "%d", "inside_ms": 1}' % os.getpid())"""
    with pytest.raises(RuntimeError, match="same image"):
        first_answer.first_answers({"it": [sys.executable, "-c", wavers]}, rounds=2)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux alone lists a process's shares")
def test_memory_of_a_process_is_what_psutil_says() -> None:
    held = memory.memory_of(os.getpid())
    assert held.held_bytes == held.rss_bytes
    assert held.rss_bytes == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)
    assert 0 < held.pss_bytes <= held.rss_bytes * 1.05


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux alone lists a process's shares")
def test_memory_of_an_agent_is_that_of_its_processes_too() -> None:
    waits = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", waits], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        (child,) = psutil.Process(process.pid).children()
        held = [memory.memory_of(pid) for pid in (process.pid, child.pid)]
        both = memory.memory_with_children(process.pid)
        process.stdin.close()
    assert both.rss_bytes == pytest.approx(held[0].rss_bytes + held[1].rss_bytes, rel=0.05)
    assert both.pss_bytes == pytest.approx(held[0].pss_bytes + held[1].pss_bytes, rel=0.05)
    # Both run the same interpreter, whose pages lie in memory once.
    common_bytes = both.rss_bytes - both.held_bytes
    assert 1024**2 < common_bytes < min(one.rss_bytes for one in held)
    assert both.processes == 2


def bright_in(quadrant: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    image = rng.integers(0, 100, (28, 28)).astype(np.uint8)
    top, left = 14 * (quadrant // 2), 14 * (quadrant % 2)
    image[top : top + 14, left : left + 14] += 100
    return image


def stand_in(label: int) -> Peer:
    def command(launch: Launch) -> tuple[list[str], dict[str, Any]]:
        return [sys.executable, "-c", SERVER, str(launch.ports[0]), str(label)], {}

    return replace(peers.LITSERVE, title="stand-in", start=command)
