"""Sorting reports: what of a sync is taken, and what is not.

A report that cannot be kept is turned down alone, whoever brings it: a node speaks for many devices in one request, and
none of them may cut off the others. Neighbour: `batches` does the same for events.
"""

import structlog

from edgeloop.contracts.codec import to_msgpack
from edgeloop.contracts.finite import is_finite
from edgeloop.contracts.messages import MAX_REPORT_BYTES, DeviceReport, RejectedReport

_log = structlog.get_logger(__name__)


def sort_out_reports(
    given: tuple[DeviceReport, ...], sender: str
) -> tuple[tuple[DeviceReport, ...], tuple[RejectedReport, ...]]:
    """The reports that can be kept, and the others with the reason, which the log hears, too."""
    taken: list[DeviceReport] = []
    rejected: list[RejectedReport] = []
    for report in given:
        if flaw := _flaw(report):
            _log.warning("report_rejected", device_id=report.device_id, sender=sender, reason=flaw)
            rejected.append(RejectedReport(device_id=report.device_id, reason=flaw))
        else:
            taken.append(report)
    return tuple(taken), tuple(rejected)


def _flaw(report: DeviceReport) -> str | None:
    if not is_finite(report):
        return "a number of the report is not finite"
    if report.update is not None and "\0" in report.update.rollout_id:
        return "the id of its rollout holds a NUL, which PostgreSQL cannot keep"
    size_bytes = len(to_msgpack(report))
    if size_bytes > MAX_REPORT_BYTES:
        return f"the report is {size_bytes:,} bytes large; at most {MAX_REPORT_BYTES:,} are taken"
    return None
