from edgeloop.transport.suspects import PASSES, TRIES, Suspects


def _pass(suspects: Suspects, count: int = PASSES) -> None:
    for _ in range(count):
        suspects.others_passed()


def _fail(suspects: Suspects, row: int, *, times: int) -> None:
    for _ in range(times):
        suspects.failed(row, "it fails")
        _pass(suspects)


def test_row_is_to_blame_after_its_tries_alone() -> None:
    suspects = Suspects()
    _fail(suspects, 7, times=TRIES - 1)
    before = suspects.guilty()
    _fail(suspects, 7, times=1)
    assert (before, suspects.guilty()) == ({}, {7: "it fails"})


def test_hub_that_takes_nothing_else_blames_nobody() -> None:
    suspects = Suspects()
    for _ in range(10 * TRIES):
        suspects.failed(7, "it fails")
    _pass(suspects)
    assert (suspects.guilty(), suspects.due()) == ({}, 7)


def test_suspect_is_tried_again_after_enough_others() -> None:
    suspects = Suspects()
    suspects.failed(7, "it fails")
    _pass(suspects, PASSES - 1)
    before = suspects.due()
    _pass(suspects, 1)
    assert (before, suspects.due()) == (None, 7)


def test_row_that_passes_is_no_suspect() -> None:
    suspects = Suspects()
    _fail(suspects, 7, times=TRIES)
    suspects.clear(7)
    assert (suspects.rows, suspects.guilty()) == ((), {})


def test_suspects_are_bounded() -> None:
    suspects = Suspects()
    for row in range(1000):
        suspects.failed(row, "it fails")
    assert 999 in suspects.rows
    assert len(suspects.rows) <= 16
