import numpy as np
import pytest

from edgeloop.contracts.manifest import EngineName, Precision
from edgeloop.runtime.profile import this_machine
from edgeloop.toolchain.profiles.measure import this_profile, time_probes
from edgeloop.toolchain.profiles.probe import PROBES, Probe, probe_model
from edgeloop.toolchain.source.engine import wrap_runnable
from edgeloop.toolchain.source.model import Format

SMALL = (Probe(8, 4, 1), Probe(16, 4, 1, repeats=1), Probe(16, 4, 1, plain=True))


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.INT8])
@pytest.mark.parametrize("probe", SMALL, ids=lambda probe: probe.name)
def test_probe_runs_and_its_answer_depends_on_its_input(probe: Probe, precision: Precision) -> None:
    model = wrap_runnable(probe_model(probe, precision), Format.LITERT, name=probe.name)
    (spec,) = model.inputs
    pair = np.stack([np.zeros(spec.shape[1:], np.float32), np.ones(spec.shape[1:], np.float32)])
    scores = model.scores(pair)
    assert scores.shape == (2, 10)
    assert np.isfinite(scores).all()
    assert (scores[0] != scores[1]).any()


def test_the_same_seed_makes_the_same_probe() -> None:
    assert probe_model(SMALL[0], Precision.INT8, seed=3) == probe_model(SMALL[0], Precision.INT8, seed=3)


def test_probes_are_of_both_kinds_and_span_two_orders_of_magnitude() -> None:
    assert {probe.plain for probe in PROBES} == {True, False}
    assert len({probe.name for probe in PROBES}) == len(PROBES)


def test_probes_are_timed_in_their_order() -> None:
    points = time_probes(SMALL, Precision.FLOAT32, runs=20)
    assert [point.network for point in points] == [probe.name for probe in SMALL]
    assert all(point.latency_ms > 0 and point.multiply_adds > 0 for point in points)
    assert points[0].source == "median of 20 runs on the device"


def test_this_machine_is_described_by_what_it_has() -> None:
    profile = this_profile()
    machine = this_machine()
    assert (profile.name, profile.memory_bytes) == ("this", machine.memory_bytes)
    assert set(profile.engines) == set(machine.engines)
    assert EngineName.LITERT in profile.engines
    assert profile.speeds == ()
