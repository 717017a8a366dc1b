"""Rows of the table that are tests of the suite: run here once more, by themselves, and counted.

A row is met when all of its tests pass. Its controls are tests too, by name; one that was skipped has shown nothing.
"""

import json
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import msgspec

from torture.rows import Row

_TIMEOUT_S = 1800.0
_FUZZED_AT_ONCE = 10_000
_FUZZED = 100_000
_MOST_GROWN_MIB = 48
"""As the suite's tests have it: two bodies of 16 MiB may be in hand at the end."""


class Suite(msgspec.Struct, frozen=True):
    """A row's name and target, and where its tests are, as pytest takes it.

    controls: parts of the names of those tests that break the promise on purpose. times: how often a large run repeats
    what takes a `--times`, each time with other chances; 1 where small is large.
    """

    test: str
    target: str
    where: tuple[str, ...]
    controls: tuple[str, ...] = ()
    times: int = 1


SUITES = (
    Suite(
        "resume at 3 % resets per 4 KiB, drip and stall",
        "<= 1.05 times the file's bytes; given up within 90 s",
        ("tests/unit/device/test_supply.py",),
        controls=("control_without_ranges",),
        times=20,
    ),
    Suite("TUF attacks, 14 kinds", "0 activations", ("tests/process/test_trust_attacked.py",)),
    Suite(
        "bad models, 7 kinds",
        "refused or rolled back <= 60 s, the old version serving throughout",
        ("tests/process/test_bad_models.py",),
        # It ends with its control: the same kind of model with the watch off must be confirmed.
        controls=("bad_models_are_refused_or_rolled_back",),
    ),
    Suite(
        "outbox at 10 times its cap",
        "exact to the row; top class whole while lower classes remain",
        ("tests/unit/transport/test_outbox_accounts.py",),
        times=10,
    ),
    Suite(
        "SIGKILL of a device in the middle of an append or a send, 24 kills",
        "0 lost, 0 doubled",
        ("tests/process/test_sender_killed.py",),
        controls=("control_outbox_that_tells", "control_cloud_without"),
    ),
    Suite(
        "cloud away for 72 simulated hours",
        "nothing lost within the bound, catches up, live data first",
        ("tests/flow/test_days_away.py",),
    ),
    Suite(
        "a rollout whose version is bad for 30 % of 200 devices",
        "affected <= first wave + in flight; stops by itself",
        ("tests/unit/cloud/test_conductor.py", "-k", "bad_for_many or without_gates"),
        controls=("without_gates",),
    ),
    Suite(
        "malformed requests on every route, 2,000",
        "no 500, no hang, no growth",
        ("tests/process/test_malformed_requests.py",),
        controls=("bug_is_found_where_there_is_one",),
    ),
)


def rows(folder: Path, *, is_large: bool, until_s: float) -> Iterator[Row]:
    """Run what is there; what is not is a row that says so. until_s: by the monotonic clock, when what is long ends."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, suite in enumerate(SUITES):
        missing = [place for place in suite.where if place.endswith(".py") and not Path(place).is_file()]
        if missing:
            yield Row(work="suites", test=suite.test, target=suite.target, note=f"not run: there is no {missing[0]}")
        else:
            yield _run(suite, folder / f"{number}.xml", times=suite.times if is_large else 1)
    if is_large:
        yield _fuzzed(until_s)
    yield Row(
        work="suites",
        test="devices reconnecting at once, 1,000 and 5,000",
        target="<= 30 s, <= 200 MB more",
        note="not run here: see the rows of make bench-fleet ARGS='--only reconnect', in build/bench-fleet.json",
    )


def _run(suite: Suite, report: Path, *, times: int) -> Row:
    command = [sys.executable, "-m", "pytest", "-q", "--hold-times", f"--junitxml={report}", *suite.where]
    if suite.times > 1:
        command.append(f"--times={times}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603
    if not report.is_file():
        return Row(work="suites", test=suite.test, target=suite.target, met=False, note=done.stdout[-300:])
    return row_of(suite, report, times=times)


def row_of(suite: Suite, report: Path, *, times: int) -> Row:
    """What pytest's report on a suite comes to."""
    cases = list(ET.parse(report).getroot().iter("testcase"))  # noqa: S314 - written by our own pytest
    failed = {one.get("name", "") for one in cases if one.find("failure") is not None or one.find("error") is not None}
    skipped = {one.get("name", "") for one in cases if one.find("skipped") is not None}
    ran = {one.get("name", "") for one in cases} - skipped
    repeated = f", what hangs on chance {times} times" if suite.times > 1 else ""
    return Row(
        work="suites",
        test=suite.test,
        runs=len(ran),
        result=f"{len(ran - failed)} of {len(ran)} tests passed{repeated}"
        + (f", {len(skipped)} skipped" if skipped else ""),
        target=suite.target,
        met=not failed if ran else None,
        control_failed=_is_caught(suite, ran, failed),
        note=", ".join(suite.where) + ("; failed: " + ", ".join(sorted(failed)) if failed else ""),
    )


def _is_caught(suite: Suite, ran: set[str], failed: set[str]) -> bool | None:
    """Whether each control's test passed, that is: caught what was broken; None where one did not run, or is none."""
    found = [{name for name in ran if control in name} for control in suite.controls]
    if not found or not all(found):
        return None
    return not any(names & failed for names in found)


def _fuzzed(until_s: float) -> Row:
    """Malformed requests by the ten thousand, until there were enough or the time is over; says how many ran."""
    cases, bugs, grown_mib = 0, [], 0.0
    while cases < _FUZZED and time.monotonic() < until_s:
        seed = 2 + cases // _FUZZED_AT_ONCE
        command = [sys.executable, "tests/fuzz_requests.py", "--cases", str(_FUZZED_AT_ONCE), "--seed", str(seed)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603
        if not done.stdout.strip():
            bugs.append(f"the fuzzer failed: {done.stderr.strip()[-300:]}")
            break
        for came in map(json.loads, done.stdout.splitlines()):
            cases += came["cases"]
            bugs += came["bugs"]
            grown_mib = max(grown_mib, came["grown_mib"])
    is_good = not bugs and grown_mib < _MOST_GROWN_MIB
    return Row(
        work="suites",
        test="malformed requests on every route, 100,000",
        runs=cases,
        result=f"{len(bugs)} bugs of {cases:,}; at most {grown_mib:.0f} MiB grown",
        target=f"no 500, no hang, < {_MOST_GROWN_MIB} MiB grown",
        met=None if is_good and cases < _FUZZED else is_good,
        note="; ".join(("a cloud of its own for each 10,000" if cases else "not run: the time was over", *bugs[:3])),
    )
