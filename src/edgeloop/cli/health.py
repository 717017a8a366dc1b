"""What a device says of its health, as words and tables: accounts of its outbox, its day's budget, its troubles."""

from collections.abc import Iterable, Mapping

from edgeloop.cli.show import console, show_table, size
from edgeloop.cli.units import parse_duration_s, parse_size_bytes
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.messages import Account, Amount, Health, Spending
from edgeloop.transport.budget import Day
from edgeloop.transport.worth import KINDS, Bounds

FATES = ("appended", "pending", "acknowledged", "evicted", "expired", "rejected", "dropped")


def words(health: Health) -> str:
    """What is out of the ordinary, in few words; empty if nothing is.

    >>> words(Health(outbox_rows=3, drift_alarm=True))
    'drift; 3 wait'
    """
    lost = sum((one.evicted.rows + one.expired.rows + one.dropped.rows) for one in health.outbox.values())
    aside = sum(one.rejected.rows for one in health.outbox.values())
    said = [
        "drift" if health.drift_alarm else "",
        f"source: {health.source.trouble}" if health.source.trouble else "",
        f"storage: {health.storage}" if health.storage else "",
        f"{health.outbox_rows:,} wait" if health.outbox_rows else "",
        f"{lost:,} given up" if lost else "",
        f"{aside:,} set aside" if aside else "",
        f"day's bytes spent: {', '.join(health.day.waits)} wait" if health.day.waits else "",
    ]
    return "; ".join(one for one in said if one)


def show_accounts(title: str, accounts: Mapping[str, Account]) -> None:
    """One line a class; they add up to the first column."""
    rows = [(kind, *(_amount(getattr(accounts[kind], fate)) for fate in FATES)) for kind in KINDS if kind in accounts]
    show_table(title, ("class", *FATES), rows, note="appended is the sum of the others")


def show_day(day: Day, spending: Spending, *, next_h: float) -> None:
    """What went over the link today, and on what."""
    rows = [
        (kind, reason, size(size_bytes))
        for kind, reasons in sorted(day.spent.items())
        for reason, size_bytes in sorted(reasons.items(), key=lambda one: -one[1])
    ]
    show_table("sent and fetched today", ("class", "for", "bytes"), rows)
    if not spending.limit_bytes:
        console.print("no budget a day is set ('edgeloop device run --day-bytes')", style="dim")
        return
    left = max(0, spending.limit_bytes - spending.owed_bytes - day.spent_bytes())
    owed = f", {size(spending.owed_bytes)} owed by the days before" if spending.owed_bytes else ""
    waits = f"; {', '.join(spending.waits)} wait" if spending.waits else ""
    console.print(
        f"{size(left)} left of {size(spending.limit_bytes)}{owed}; the next day begins in {next_h:.1f} h{waits}"
    )


def bounds_of(outbox_max: str, keep_free: str, ttl: Iterable[str]) -> Bounds:
    """An outbox's bounds as people write them. Raises InvalidInput."""
    spans = Bounds().ttl_s
    for text in ttl:
        kind, sign, span = text.partition("=")
        if not sign or kind not in KINDS:
            raise InvalidInput(f"{text!r} is not CLASS=DURATION, such as reading=72h; classes: {', '.join(KINDS)}")
        spans = spans | {kind: parse_duration_s(span)}
    return Bounds(max_bytes=parse_size_bytes(outbox_max), keep_free_bytes=parse_size_bytes(keep_free), ttl_s=spans)


def _amount(amount: Amount) -> str:
    return f"{amount.rows:,} ({size(amount.size_bytes)})" if amount.rows else "0"
