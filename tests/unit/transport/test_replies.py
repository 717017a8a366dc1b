import importlib
import pkgutil

import httpx
import pytest

import edgeloop
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import (
    Corrupt,
    EdgeloopError,
    InvalidInput,
    NotFound,
    Refused,
    Unavailable,
    by_code,
)
from edgeloop.contracts.messages import ErrorReply
from edgeloop.hub.proof import StaleSignature
from edgeloop.hub.routes import error_handlers
from edgeloop.transport.replies import StaleClock, raise_for_reply, unreachable

CLASSES = [EdgeloopError, InvalidInput, NotFound, Refused, Unavailable, Corrupt]


def _response(status: int, content: bytes) -> httpx.Response:
    return httpx.Response(status, content=content, request=httpx.Request("GET", "http://hub.test/v1/sync"))


def _over_the_wire(error: EdgeloopError) -> EdgeloopError:
    """What a client raises when a hub's handler met this error."""
    answer = error_handlers()[EdgeloopError](None, error)
    with pytest.raises(EdgeloopError) as caught:
        raise_for_reply(_response(answer.status_code, answer.content))
    return caught.value


def test_every_error_of_edgeloop_is_one_that_the_wire_knows() -> None:
    """A new error class must be taken up in by_code, or derive from one that is."""
    for module in ("contracts", "bundle", "runtime", "transport", "hub"):
        for found in pkgutil.iter_modules([f"{edgeloop.__path__[0]}/{module}"]):
            importlib.import_module(f"edgeloop.{module}.{found.name}")
    pending, unknown = [EdgeloopError], []
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        if not issubclass(kind, by_code(kind.code)):
            unknown.append(kind)
    assert unknown == []


@pytest.mark.parametrize("kind", CLASSES)
def test_error_arrives_as_the_class_it_left_as(kind: type[EdgeloopError]) -> None:
    assert type(_over_the_wire(kind("why"))) is kind


@pytest.mark.parametrize("kind", CLASSES)
def test_error_arrives_with_its_message(kind: type[EdgeloopError]) -> None:
    assert str(_over_the_wire(kind("why: ä"))) == "why: ä"


def test_stale_signature_arrives_with_the_servers_time() -> None:
    arrived = _over_the_wire(StaleSignature("too old", 1234.5))
    assert isinstance(arrived, StaleClock)
    assert arrived.server_time_s == 1234.5


@pytest.mark.parametrize("status", [200, 204, 206])
def test_success_raises_nothing(status: int) -> None:
    raise_for_reply(_response(status, b"anything"))


def test_code_from_the_future_is_the_root_error_with_its_message() -> None:
    with pytest.raises(EdgeloopError, match="news") as caught:
        raise_for_reply(_response(418, to_json(ErrorReply(code="from_the_future", message="news"))))
    assert type(caught.value) is EdgeloopError


@pytest.mark.parametrize("content", [b"", b"<html>Bad Gateway</html>", b"{}", b"[1]", b'"x"', b"\xff\xfe"])
@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, NotFound), (429, Unavailable), (500, Unavailable), (502, Unavailable), (503, Unavailable),
     (504, Unavailable), (301, Refused), (401, Refused), (407, Refused)],
)  # fmt: skip
def test_answer_of_something_that_is_no_hub_is_judged_by_its_status(
    status: int, kind: type[EdgeloopError], content: bytes
) -> None:
    with pytest.raises(kind, match=str(status)):
        raise_for_reply(_response(status, content))


def test_answer_in_another_encoding_is_judged_by_its_status() -> None:
    with pytest.raises(Unavailable, match="502"):
        raise_for_reply(_response(502, '{"message": "Zeitüberschreitung"}'.encode("latin1")))


@pytest.mark.parametrize(
    "error",
    [httpx.ConnectError("refused"), httpx.ReadTimeout(""), httpx.RemoteProtocolError("cut"), httpx.PoolTimeout("")],
    ids=lambda error: type(error).__name__,
)
def test_failure_below_http_is_unavailable_and_names_the_address(error: httpx.HTTPError) -> None:
    found = unreachable(error, "http://hub.test")
    assert (type(found), "http://hub.test" in str(found)) == (Unavailable, True)


def test_failure_without_a_text_is_named_by_its_kind() -> None:
    assert "ReadTimeout" in str(unreachable(httpx.ReadTimeout(""), "http://hub.test"))


def test_address_without_a_scheme_is_invalid_input() -> None:
    assert type(unreachable(httpx.UnsupportedProtocol("x"), "hub.test")) is InvalidInput
