"""How a database is reached: which servers are spoken to without a word on how they prove themselves."""

import pytest

from edgeloop.cloud.store.engine import open_engine
from edgeloop.contracts.errors import InvalidInput

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'edgeloop[postgres]'")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGSSLMODE", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "address",
    [
        "db.example/cloud",
        "10.0.0.7:5432/cloud",
        "/cloud?host=db.example",
        "/cloud?host=localhost:5432&host=db.example:5432",
        "localhost/cloud?hostaddr=10.0.0.7",
        "/cloud?service=fleet",
        "[2001:db8::1]/cloud",
    ],
)
def test_server_on_another_machine_must_be_verified_or_not_by_choice(address: str) -> None:
    with pytest.raises(InvalidInput, match=r"sslmode=verify-full.*sslmode=disable"):
        open_engine(f"postgresql://edgeloop:secret@{address}")
    joint = "&" if "?" in address else "?"
    for mode in ("verify-full", "disable"):
        open_engine(f"postgresql://edgeloop@{address}{joint}sslmode={mode}").dispose()


@pytest.mark.parametrize("name", ["PGHOST", "PGHOSTADDR", "PGSERVICE"])
def test_server_that_only_the_environment_names_is_another_machine_too(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "10.0.0.7")
    with pytest.raises(InvalidInput, match="verify-full"):
        open_engine("postgresql:///cloud")
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    open_engine("postgresql:///cloud").dispose()


def test_mode_of_the_environment_that_verifies_nothing_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "prefer")
    with pytest.raises(InvalidInput, match="verify-full"):
        open_engine("postgresql://db.example/cloud")


@pytest.mark.parametrize(
    "address", ["127.0.0.1/cloud", "localhost:5432/cloud", "[::1]/cloud", "/cloud", "/cloud?host=/run/postgresql"]
)
def test_server_on_this_machine_needs_no_word(address: str) -> None:
    open_engine(f"postgresql://{address}").dispose()


def test_no_password_is_in_the_error() -> None:
    with pytest.raises(InvalidInput) as told:
        open_engine("postgresql://edgeloop:geheim@db.example/cloud")
    assert "geheim" not in str(told.value)
