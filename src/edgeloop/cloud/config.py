"""The cloud's settings: where it keeps things, and how often it looks after them."""

from dataclasses import dataclass, field
from pathlib import Path

from edgeloop.cloud.store.tidying import Keep
from edgeloop.hub.limits import Limits
from edgeloop.hub.serve import Listen


@dataclass(frozen=True)
class CloudConfig:
    """One cloud. folder: online keys, and database and blobs unless URLs name other places for these.

    database_url: postgresql+psycopg://... or sqlite:///... blobs_url: s3://BUCKET/PREFIX. migrates: whether an older
    schema is brought up to date when it is opened. tick_s: how often rollouts are looked at. sample_key: where the keys
    come from that samples are sealed with, as `transport.seal` takes it; None for not sealed. limits: of one device.
    keep: for how long; all of it for ever unless told.
    """

    folder: Path
    listen: Listen = field(default_factory=lambda: Listen(port=8400))
    database_url: str | None = None
    blobs_url: str | None = None
    migrates: bool = True
    tick_s: float = 0.2
    job_lease_s: float = 120.0
    sample_key: str | None = None
    limits: Limits = field(default_factory=Limits)
    keep: Keep = field(default_factory=Keep)

    @property
    def sqlalchemy_url(self) -> str:
        """The database: the given one, else SQLite in the folder."""
        return self.database_url or f"sqlite:///{self.folder / 'cloud.db'}"

    @property
    def blobs_folder(self) -> Path:
        """Where blobs are kept."""
        return self.folder / "blobs"

    @property
    def online_keys(self) -> Path:
        """Keys that the server signs with by itself."""
        return self.folder / "online"

    @property
    def tls(self) -> Path:
        """The server's certificate and its private authority's, if it has one."""
        return self.folder / "tls"

    @property
    def roots(self) -> Path:
        """Root metadata of both repositories."""
        return self.folder / "roots"
