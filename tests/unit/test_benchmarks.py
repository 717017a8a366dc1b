"""The benchmarks' rules: rows, dominance, the ledger, interleaved timing; not the figures, which are timed."""

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from benchmarks import rows
from benchmarks.command import in_order, run
from benchmarks.contender import Contender, standings
from benchmarks.context import Context, Work
from benchmarks.data import ASSETS_VARIABLE, Absent, assets_folder, require
from benchmarks.latency import latency_ms
from benchmarks.rows import Ledger, Row, Standing, alone, beside, dominates
from benchmarks.table import notes, shown, table

from edgeloop.contracts.manifest import EngineName
from edgeloop.toolchain.source.model import Format

FIELDS = {"work", "peer", "ours", "theirs", "ratio", "target", "met"}
GOOD = Standing(size_bytes=100, latency_ms=1.0, accuracy=0.9)


@pytest.fixture
def probe() -> bytes:
    return resources.files("edgeloop.runtime").joinpath("probes", "double.tflite").read_bytes()


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(assets=tmp_path, cache=tmp_path, scratch=tmp_path, budget_min=1.0, tell=lambda _line: None)


def test_row_bounds_above_and_below() -> None:
    assert rows.at_most("w", "bytes", "p", ours=10, theirs=40, bound=10).met is True
    assert rows.at_most("w", "bytes", "p", ours=11, theirs=40, bound=10).met is False
    assert rows.at_least("w", "share", "p", ours=0.9, theirs=None, bound=0.9).met is True
    assert rows.at_least("w", "share", "p", ours=0.8, theirs=None, bound=0.9).met is False


def test_row_bounds_a_ratio() -> None:
    row = rows.ratio_at_most("w", "ms", "p", ours=1.0, theirs=3.0, bound=1 / 3)
    assert row.met is True
    assert row.ratio == pytest.approx(1 / 3)
    assert rows.ratio_at_most("w", "ms", "p", ours=1.1, theirs=3.0, bound=1 / 3).met is False


def test_what_could_not_be_run_is_neither_met_nor_missed() -> None:
    row = rows.not_run("w", "run", "p", "not installed")
    assert row.met is None
    assert row.note == "not installed"


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (GOOD, False),
        (Standing(size_bytes=101, latency_ms=1.0, accuracy=0.9), True),
        (Standing(size_bytes=101, latency_ms=1.1, accuracy=0.8), True),
        (Standing(size_bytes=101, latency_ms=0.9, accuracy=0.9), False),
        (Standing(size_bytes=99, latency_ms=2.0, accuracy=0.5), False),
    ],
)
def test_dominance_needs_no_axis_worse_and_one_better(other: Standing, expected: bool) -> None:
    assert dominates(GOOD, other) is expected


def test_peer_that_dominates_us_is_a_miss_on_every_axis() -> None:
    worse = Standing(size_bytes=200, latency_ms=2.0, accuracy=0.8)
    assert [row.met for row in beside("w", "p", worse, GOOD)] == [False] * 3
    assert [row.met for row in beside("w", "p", GOOD, worse)] == [True] * 3


def test_peer_without_anything_of_ours_beside_it_is_a_miss() -> None:
    made = alone("w", "p", GOOD)
    assert [(row.figure, row.ours, row.theirs, row.met) for row in made] == [
        ("size_bytes", None, 100, False),
        ("latency_ms", None, 1.0, False),
        ("accuracy", None, 0.9, False),
    ]


def test_ledger_keeps_rows_as_they_come_and_other_works_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "build" / "rows.json"
    ledger = Ledger(path)
    ledger.begin("a")
    ledger.add(rows.at_most("a", "bytes", "p", ours=1, theirs=2, bound=1))
    kept = json.loads(path.read_text())
    assert set(kept[0]) >= FIELDS
    assert kept[0]["ratio"] == 0.5
    again = Ledger(path)
    again.begin("b")
    again.add(rows.not_run("b", "run", "", "absent"))
    again.begin("a")
    assert [row.work for row in Ledger(path).rows] == ["b"]


def test_failing_work_is_a_row_and_others_go_on(tmp_path: Path, context: Context) -> None:
    def breaks(_context: Context) -> Iterator[Row]:
        yield rows.at_most("breaks", "bytes", "p", ours=1, theirs=2, bound=1)
        raise RuntimeError("out of disk\nmore")

    def lacks(_context: Context) -> Iterator[Row]:
        raise Absent("no data")
        yield

    def works(_context: Context) -> Iterator[Row]:
        yield rows.at_most("works", "bytes", "p", ours=1, theirs=2, bound=1)

    ledger = Ledger(tmp_path / "rows.json")
    named = [Work("breaks", "", breaks), Work("lacks", "", lacks), Work("works", "", works)]
    assert run(named, context, ledger) is False
    assert [(row.work, row.met) for row in ledger.rows] == [
        ("breaks", True),
        ("breaks", False),
        ("lacks", None),
        ("works", True),
    ]
    assert "out of disk" in ledger.rows[1].note
    assert "no data" in ledger.rows[2].note


def test_rows_are_shown_in_the_order_of_works_and_not_as_they_came() -> None:
    first, second = rows.not_run("first", "run", "", "x"), rows.not_run("second", "run", "", "x")
    works = [Work(name, "", lambda _context: iter(())) for name in ("first", "second")]
    assert in_order([second, rows.not_run("gone", "run", "", "x"), first], works) == [first, second]


def test_assets_are_looked_for_as_given_then_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ASSETS_VARIABLE, str(tmp_path / "named"))
    assert assets_folder(tmp_path) == tmp_path
    assert assets_folder(None) == tmp_path / "named"
    with pytest.raises(Absent, match=r"model\.tflite is not there"):
        require(tmp_path / "model.tflite")


def test_engines_are_timed_in_one_run_in_another_process(probe: bytes) -> None:
    sample = np.array([[1.0, 2.0]], np.float32)
    took = latency_ms({"a": (EngineName.LITERT, probe), "b": (EngineName.LITERT, probe)}, sample, rounds=3)
    assert set(took) == {"a", "b"}
    assert all(value > 0 for value in took.values())


def test_contenders_are_judged_and_weighed(probe: bytes) -> None:
    one = Contender("double", Format.LITERT, probe)
    inputs = np.array([[1.0, 2.0], [4.0, 3.0]], np.float32)
    assert one.scores(inputs).tolist() == [[2.0, 4.0], [8.0, 6.0]]
    stand = standings({"double": one}, inputs, np.array([1, 1]))["double"]
    assert (stand.size_bytes, stand.accuracy) == (len(probe), 0.5)


def test_table_shows_all_rows_and_their_notes() -> None:
    given = [rows.not_run("w", "run", "p", "skipped: why"), rows.at_most("w", "b", "p", ours=1000, theirs=2, bound=1)]
    assert table(given, title="figures").row_count == 2
    assert list(notes(given)) == ["w run p: skipped: why"]
    assert (shown(1000), shown(0.123456), shown(None)) == ("1,000", "0.1235", "")
