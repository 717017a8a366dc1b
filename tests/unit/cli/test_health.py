"""The outbox and the day's budget on the command line, over a device's folder."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgeloop.cli.app import app
from edgeloop.cli.health import bounds_of, words
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.messages import Account, Alert, Amount, Health, SourceHealth, Spending
from edgeloop.contracts.states import Kind
from edgeloop.transport.budget import Budget, DaySettings
from edgeloop.transport.keep import Keep
from edgeloop.transport.membership import Membership
from edgeloop.transport.outbox import Outbox


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a device that has one alert waiting, two set aside, and spent 300 of 1,000 bytes today."""
    member = Membership(
        device_id="camera-1", kind=Kind.DEVICE, hub_url="http://127.0.0.1:1", images_root=b"", director_root=b""
    )
    (tmp_path / "membership.json").write_bytes(to_json(member))
    outbox = Outbox(tmp_path / "outbox.db", "camera-1")
    outbox.append([Alert(what="drift", detail="")] * 2, at_ms=0)
    outbox.set_aside({one.row: "the hub is too old" for one in outbox.pending(limit=10, max_bytes=10**6)})
    outbox.close()
    keep = Keep(tmp_path / "device.db")
    keep.set({"day_settings": DaySettings(limit_bytes=1_000)})
    Budget(keep, limit_bytes=1_000).spend("sample", {"novel": 300})
    keep.close()
    return tmp_path


def _said(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["device", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_status_shows_the_accounts_and_what_the_day_was_spent_on(folder: Path) -> None:
    facts = json.loads(_said("status", "--dir", str(folder), "--json"))
    assert (facts["outbox"]["alert"]["appended"]["rows"], facts["set_aside"], facts["outbox_pending"]) == (3, 2, 1)
    assert (facts["spent"], facts["day"]["limit_bytes"]) == ({"sample": {"novel": 300}}, 1_000)
    shown = _said("status", "--dir", str(folder))
    assert "novel" in shown
    assert "700 B left of 1,000 B" in shown


def test_outbox_lists_what_is_aside_with_the_reason(folder: Path) -> None:
    found = json.loads(_said("outbox", "--dir", str(folder), "--json"))
    assert [(one["row"], one["reason"]) for one in found["aside"]] == [
        (1, "the hub is too old"),
        (2, "the hub is too old"),
    ]
    assert "the hub is too old" in _said("outbox", "--dir", str(folder)).replace("\n", " ")


def test_what_is_aside_is_queued_again_or_given_up(folder: Path) -> None:
    _said("outbox", "--dir", str(folder), "--retry", "1")
    found = json.loads(_said("outbox", "--dir", str(folder), "--drop-all", "--json"))
    account = found["accounts"]["alert"]
    assert (found["given_up"], found["aside"]) == (1, [])
    assert (account["pending"]["rows"], account["dropped"]["rows"], "rejected" in account) == (2, 1, False)


def test_two_orders_at_once_are_refused(folder: Path) -> None:
    done = CliRunner().invoke(app, ["device", "outbox", "--dir", str(folder), "--retry", "1", "--drop", "2"])
    assert isinstance(done.exception, InvalidInput)


def test_bounds_are_read_as_people_write_them() -> None:
    bounds = bounds_of("1MB", "2KB", ["reading=72h", "alert=30min"])
    assert (bounds.max_bytes, bounds.keep_free_bytes) == (1024**2, 2048)
    assert (bounds.ttl_s["reading"], bounds.ttl_s["alert"], bounds.ttl_s["sample"]) == (259_200.0, 1800.0, 2_592_000.0)


@pytest.mark.parametrize("text", ["readings=72h", "reading", "reading=soon"])
def test_bounds_that_mean_nothing_are_invalid(text: str) -> None:
    with pytest.raises(InvalidInput):
        bounds_of("1MB", "2KB", [text])


def test_fleet_says_in_few_words_what_is_out_of_the_ordinary() -> None:
    health = Health(
        outbox_rows=312,
        outbox={"reading": Account(evicted=Amount(rows=5), expired=Amount(rows=2), rejected=Amount(rows=1))},
        source=SourceHealth(trouble="t.csv is no longer there"),
        day=Spending(limit_bytes=10, waits=("download",)),
        storage="the disk is full",
    )
    assert words(health) == (
        "source: t.csv is no longer there; storage: the disk is full; 312 wait; 7 given up; 1 set aside; "
        "day's bytes spent: download wait"
    )
    assert words(Health()) == ""
