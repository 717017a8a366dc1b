import random

import pytest

from edgeloop.contracts.errors import InvalidInput
from edgeloop.simulate.plan import LINKS, Faults, parse_faults, parse_link


def test_faults_are_read_by_name_and_percent() -> None:
    assert parse_faults("resets=2%, loss=0.5%") == Faults(resets=0.02, loss=0.005)
    assert parse_faults("") == Faults()


@pytest.mark.parametrize("text", ["resets=2", "storms=2%", "offline=100%", "resets=-1%", "resets"])
def test_what_is_no_fault_is_refused_with_the_names_there_are(text: str) -> None:
    with pytest.raises(InvalidInput, match="resets, loss, offline"):
        parse_faults(text)


def test_unknown_link_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidInput, match="sat"):
        parse_link("5g")


def test_a_link_takes_half_a_round_trip_and_the_time_of_its_bytes() -> None:
    assert parse_link("3g").up_s(96_000) == pytest.approx(0.15 + 1.0)
    assert parse_link("3g").down_s(200_000) == pytest.approx(1.0)
    assert LINKS["loopback"].up_s(random.Random(0).randrange(10**9)) == 0.0
