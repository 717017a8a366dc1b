import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeloop.contracts.messages import MAX_SAMPLE_BYTES
from edgeloop.contracts.prediction import Prediction
from edgeloop.contracts.states import Reason
from edgeloop.device.config import SelectConfig
from edgeloop.device.select import Selector

SIZE_BYTES = 1000

frames = st.lists(
    st.tuples(
        st.floats(0.0, 1.0),
        st.one_of(st.none(), st.floats(-5.0, 50.0)),
        st.integers(1, 50_000),
        st.booleans(),
        st.booleans(),
    ),
    max_size=150,
)


def _prediction(*, margin: float = 0.99, novelty: float | None = 0.0, label: str | None = "a") -> Prediction:
    return Prediction(
        label=label,
        score=0.9,
        margin=margin,
        top=(),
        latency_ms=1.0,
        bundle="tiny@1.0.0",
        engine="onnxruntime",
        precision="float32",
        novelty=novelty,
    )


def _selector(config: SelectConfig | None = None, *, seed: int = 0) -> Selector:
    return Selector(config or SelectConfig(), rng=random.Random(seed))


def _only(**shares: float) -> SelectConfig:
    """A mix in which nothing has a share but what is named."""
    return SelectConfig(**({"unsure_share": 0.0, "novel_share": 0.0, "audit_share": 0.0} | shares))


def _picks(selector: Selector, prediction: Prediction, count: int, *, disagrees: bool = False) -> list[int]:
    chosen = (selector.choose(prediction, size_bytes=SIZE_BYTES, disagrees=disagrees) for _ in range(count))
    return [index for index, reason in enumerate(chosen) if reason is not None]


@given(readings=frames, seed=st.integers(0, 100))
def test_selected_bytes_never_exceed_the_shares(
    readings: list[tuple[float, float | None, int, bool, bool]], seed: int
) -> None:
    config = SelectConfig(unsure_share=0.2, novel_share=0.3, audit_share=0.1)
    selector = _selector(config, seed=seed)
    seen = selected = 0
    for margin, novelty, size_bytes, labelled, disagrees in readings:
        prediction = _prediction(margin=margin, novelty=novelty, label="a" if labelled else None)
        seen += size_bytes
        if selector.choose(prediction, size_bytes=size_bytes, disagrees=disagrees) is not None:
            selected += size_bytes
        # The bound holds at every instant; budgets start empty, so there is no burst on top of it.
        assert selected <= (0.2 + 0.3 + 0.1) * seen * (1 + 1e-9)


@given(readings=frames)
def test_each_reason_keeps_to_its_own_share(readings: list[tuple[float, float | None, int, bool, bool]]) -> None:
    selector = _selector(SelectConfig(unsure_share=0.2, novel_share=0.3, audit_share=0.1))
    share = {Reason.UNSURE: 0.2, Reason.DISAGREES: 0.2, Reason.NOVEL: 0.3, Reason.AUDIT: 0.1}
    spent = dict.fromkeys(Reason, 0)
    seen = 0
    for margin, novelty, size_bytes, labelled, disagrees in readings:
        prediction = _prediction(margin=margin, novelty=novelty, label="a" if labelled else None)
        seen += size_bytes
        reason = selector.choose(prediction, size_bytes=size_bytes, disagrees=disagrees)
        if reason is not None:
            spent[reason] += size_bytes
    assert all(spent[reason] <= share[reason] * seen * (1 + 1e-9) for reason in Reason)


def test_a_quiet_time_saves_up_for_one_burst_and_no_more() -> None:
    selector = _selector(_only(unsure_share=0.1))
    _picks(selector, _prediction(), 10_000)
    # 60 readings' worth of a tenth is 6 pictures; the tenth of the burst itself lets no seventh through.
    assert _picks(selector, _prediction(margin=0.0), 10) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("prediction", "disagrees", "reason"),
    [
        (_prediction(margin=0.49), False, Reason.UNSURE),
        (_prediction(label=None), False, Reason.UNSURE),
        (_prediction(novelty=2.6), False, Reason.NOVEL),
        (_prediction(), True, Reason.DISAGREES),
        (_prediction(margin=0.1, novelty=9.0), True, Reason.DISAGREES),
        (_prediction(margin=0.1, novelty=9.0), False, Reason.NOVEL),
        (_prediction(margin=0.5, novelty=2.5), False, None),
        (_prediction(novelty=None), False, None),
    ],
)
def test_reason_says_why_it_was_chosen(prediction: Prediction, disagrees: bool, reason: Reason | None) -> None:
    selector = _selector(_only(unsure_share=1.0, novel_share=1.0))
    assert selector.choose(prediction, size_bytes=SIZE_BYTES, disagrees=disagrees) == reason


def test_spent_budget_of_one_reason_leaves_the_others_theirs() -> None:
    selector = _selector(_only(unsure_share=1.0, novel_share=0.0))
    both = _prediction(margin=0.1, novelty=9.0)
    assert selector.choose(both, size_bytes=SIZE_BYTES) is Reason.UNSURE


def test_picks_spread_evenly_when_everything_is_novel() -> None:
    picks = _picks(_selector(_only(novel_share=0.0625)), _prediction(novelty=9.0), 1600)
    assert picks == list(range(15, 1600, 16))


def test_disagreement_spends_from_the_unsure_budget() -> None:
    selector = _selector(_only(unsure_share=0.125))
    assert len(_picks(selector, _prediction(), 800, disagrees=True)) == 100


def test_audit_takes_some_of_the_confident() -> None:
    picks = _picks(_selector(_only(audit_share=0.05)), _prediction(), 10_000)
    # Draws at 5 % against a budget of 5 %: some are lost to an empty purse, none is invented.
    assert 250 <= len(picks) <= 500


def test_audit_repeats_with_its_seed() -> None:
    config = _only(audit_share=0.05)
    first, again = (_picks(_selector(config, seed=7), _prediction(), 2000) for _ in range(2))
    assert first == again


def test_audit_differs_with_another_seed() -> None:
    config = _only(audit_share=0.05)
    first, other = (_picks(_selector(config, seed=seed), _prediction(), 2000) for seed in (1, 2))
    assert first != other


def test_audit_is_not_periodic() -> None:
    picks = _picks(_selector(_only(audit_share=0.05)), _prediction(), 4000)
    assert len({later - earlier for earlier, later in itertools.pairwise(picks)}) > 10


def test_nothing_is_chosen_without_a_share() -> None:
    assert _picks(_selector(_only()), _prediction(margin=0.0, novelty=50.0), 500, disagrees=True) == []


def test_default_shares_spend_all_that_they_may_when_everything_is_hard() -> None:
    config = SelectConfig()
    picks = _picks(_selector(config), _prediction(margin=0.0, novelty=50.0), 5000)
    # Unsure and novel always want; the audit's own share comes on top when it is drawn.
    assert len(picks) >= 5000 * (config.unsure_share + config.novel_share) - 2


def test_budget_is_put_right_once_the_size_is_known() -> None:
    selector = _selector(_only(unsure_share=0.5))
    unsure = _prediction(margin=0.1)
    assert [selector.choose(unsure, size_bytes=1000) for _ in range(2)] == [None, Reason.UNSURE]
    # It took a tenth of what was thought: what is left pays for the next at once.
    assert selector.settle(Reason.UNSURE, size_bytes=100, estimated_bytes=1000)
    assert selector.choose(unsure, size_bytes=1000) is Reason.UNSURE


def test_disagreement_is_put_right_in_the_budget_that_paid() -> None:
    selector = _selector(_only(unsure_share=0.5))
    for _ in range(2):
        reason = selector.choose(_prediction(), size_bytes=1000, disagrees=True)
    assert reason is Reason.DISAGREES
    # Twice as large as thought: two more inputs' share make up for it before the next.
    assert selector.settle(reason, size_bytes=2000, estimated_bytes=1000)
    later = [selector.choose(_prediction(), size_bytes=1000, disagrees=True) for _ in range(4)]
    assert later == [None, None, None, Reason.DISAGREES]


def test_input_that_turns_out_too_large_is_not_sent_and_costs_nothing() -> None:
    selector = _selector(_only(unsure_share=0.5))
    unsure = _prediction(margin=0.1)
    for _ in range(2):
        selector.choose(unsure, size_bytes=1000)
    assert not selector.settle(Reason.UNSURE, size_bytes=MAX_SAMPLE_BYTES + 1, estimated_bytes=1000)
    assert selector.choose(unsure, size_bytes=1000) is Reason.UNSURE
