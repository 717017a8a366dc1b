"""The schema of a cloud's database to a version, by hand. `cloud serve` goes up by itself unless told otherwise."""

from pathlib import Path

from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.store.engine import open_engine, parse_url
from edgeloop.cloud.store.schema import migrate
from edgeloop.cloud.store.sole import sole_server
from edgeloop.contracts.errors import NotFound


def migrate_cloud(config: CloudConfig, *, to: str | None, lose_roots: bool = False) -> tuple[str, str]:
    """Go to a version, the newest unless told; returns (from, to). lose_roots: see store.schema.migrate.

    Raises NotFound if there is no such file; InvalidInput on a version that is not known; Refused if roots would be
    lost; Refused or Unavailable while the cloud is served and the change would be under its feet.
    """
    url = parse_url(config.sqlalchemy_url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise NotFound(f"there is no database {url.database}; name the cloud's folder with --dir")
    engine = open_engine(config.sqlalchemy_url)
    try:
        with sole_server(engine.url):
            return migrate(engine, to=to, lose_roots=lose_roots)
    finally:
        engine.dispose()
