"""Rows of the table that are tests of the suite: run here once more, by themselves, and counted.

A row is met when all of its tests pass; its controls are those whose names say so.
"""

import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import msgspec

from torture.rows import Row

_TIMEOUT_S = 900.0


class Suite(msgspec.Struct, frozen=True):
    """A row's name and target, and where its tests are, as pytest takes it."""

    test: str
    target: str
    where: tuple[str, ...]


SUITES = (
    Suite(
        "resume at 3 % resets per 4 KiB, drip and stall",
        "<= 1.05 times the file's bytes; given up within 90 s",
        ("tests/unit/device/test_supply.py",),
    ),
    Suite("TUF attacks, 14 kinds", "0 activations", ("tests/process/test_trust_attacked.py",)),
    Suite(
        "bad models, 7 kinds",
        "refused or rolled back <= 60 s, the old version serving throughout",
        ("tests/process/test_bad_models.py",),
    ),
    Suite(
        "outbox at 10 times its cap",
        "exact to the row; top class whole while lower classes remain",
        ("tests/unit/transport/test_outbox_accounts.py",),
    ),
    Suite(
        "SIGKILL of a device in the middle of an append or a send, 24 kills",
        "0 lost, 0 doubled",
        ("tests/process/test_sender_killed.py",),
    ),
    Suite(
        "cloud away for 72 simulated hours",
        "nothing lost within the bound, catches up, live data first",
        ("tests/flow/test_days_away.py",),
    ),
    Suite(
        "a rollout whose version is bad for 30 % of 200 devices",
        "affected <= first wave + in flight; stops by itself",
        ("tests/unit/cloud/test_conductor.py", "-k", "bad_for_many or control"),
    ),
    Suite(
        "malformed requests on every route, 2,000",
        "no 500, no hang, no growth",
        ("tests/process/test_malformed_requests.py",),
    ),
)


def rows(folder: Path) -> Iterator[Row]:
    """Run what is there; what is not is a row that says so."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, suite in enumerate(SUITES):
        missing = [place for place in suite.where if place.endswith(".py") and not Path(place).is_file()]
        if missing:
            yield Row(work="suites", test=suite.test, target=suite.target, note=f"not run: there is no {missing[0]}")
        else:
            yield _run(suite, folder / f"{number}.xml")


def _run(suite: Suite, report: Path) -> Row:
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *suite.where]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603
    if not report.is_file():
        return Row(work="suites", test=suite.test, target=suite.target, met=False, note=done.stdout[-300:])
    cases = list(ET.parse(report).getroot().iter("testcase"))  # noqa: S314 - see above
    failed = [one.get("name", "") for one in cases if one.find("failure") is not None or one.find("error") is not None]
    skipped = sum(one.find("skipped") is not None for one in cases)
    controls = [one.get("name", "") for one in cases if "control" in one.get("name", "")]
    ran = len(cases) - skipped
    return Row(
        work="suites",
        test=suite.test,
        runs=ran,
        result=f"{ran - len(failed)} of {ran} tests passed" + (f", {skipped} skipped" if skipped else ""),
        target=suite.target,
        met=not failed if ran else None,
        control_failed=not set(controls) & set(failed) if controls else None,
        note=", ".join(suite.where) + ("; failed: " + ", ".join(failed) if failed else ""),
    )
