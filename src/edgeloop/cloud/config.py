"""The cloud's settings: where it keeps things and how long its signatures hold."""

from dataclasses import dataclass, field
from pathlib import Path

from edgeloop.hub.serve import Listen


@dataclass(frozen=True)
class CloudConfig:
    """One cloud. folder holds database, blobs, online keys and roots; tick_s is how often rollouts are looked at."""

    folder: Path
    listen: Listen = field(default_factory=lambda: Listen(port=8400))
    database_url: str | None = None
    tick_s: float = 0.2
    job_lease_s: float = 120.0

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
    def roots(self) -> Path:
        """Root metadata of both repositories."""
        return self.folder / "roots"
