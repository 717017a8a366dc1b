"""The tables of an outbox, as scripts that bring its file from one version to the next.

Neighbours: `outbox` uses them, `sqlite` runs them. Each is what devices in the field have: they are not changed once
released.
"""

SCHEMA = (
    """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    device_id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    kind TEXT NOT NULL,
    value REAL NOT NULL,
    size_bytes INTEGER NOT NULL,
    payload BLOB NOT NULL,
    acknowledged_ms INTEGER,
    rejected TEXT,
    UNIQUE (device_id, epoch, sequence)
) STRICT;
CREATE INDEX IF NOT EXISTS pending ON events (id) WHERE acknowledged_ms IS NULL;
CREATE INDEX IF NOT EXISTS acknowledged ON events (id) WHERE acknowledged_ms IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_value ON events (value, id) WHERE acknowledged_ms IS NULL;
CREATE TABLE IF NOT EXISTS evicted (kind TEXT PRIMARY KEY, rows INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
""",
    """
ALTER TABLE events ADD COLUMN tier INTEGER NOT NULL DEFAULT 0;
ALTER TABLE events ADD COLUMN label TEXT;
ALTER TABLE events ADD COLUMN since_ms INTEGER NOT NULL DEFAULT 0;
UPDATE events SET tier = 2 WHERE kind = 'alert';
CREATE TABLE aside (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    device_id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    kind TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    payload BLOB NOT NULL,
    reason TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    UNIQUE (device_id, epoch, sequence)
) STRICT;
INSERT INTO aside (device_id, epoch, sequence, kind, size_bytes, payload, reason, at_ms)
    SELECT device_id, epoch, sequence, kind, size_bytes, payload, rejected, acknowledged_ms FROM events
    WHERE rejected IS NOT NULL ORDER BY id;
DELETE FROM events WHERE rejected IS NOT NULL;
CREATE TABLE account (
    device_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    fate TEXT NOT NULL,
    rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (device_id, kind, fate)
) STRICT, WITHOUT ROWID;
INSERT INTO account SELECT device_id, kind, 'pending', count(*), sum(size_bytes) FROM events
    WHERE acknowledged_ms IS NULL GROUP BY 1, 2;
INSERT INTO account SELECT device_id, kind, 'record', count(*), sum(size_bytes) FROM events
    WHERE acknowledged_ms IS NOT NULL GROUP BY 1, 2;
INSERT INTO account SELECT device_id, kind, 'acknowledged', rows, bytes FROM account WHERE fate = 'record';
INSERT INTO account SELECT device_id, kind, 'rejected', count(*), sum(size_bytes) FROM aside GROUP BY 1, 2;
INSERT INTO account SELECT '', kind, 'evicted', rows, bytes FROM evicted;
INSERT INTO account SELECT device_id, kind, 'appended', sum(rows), sum(bytes) FROM account
    WHERE fate != 'record' GROUP BY 1, 2;
DROP TABLE evicted;
DROP INDEX by_value;
CREATE INDEX by_worth ON events (tier, device_id, value, id, size_bytes) WHERE acknowledged_ms IS NULL;
CREATE INDEX by_kind ON events (kind, id) WHERE acknowledged_ms IS NULL;
CREATE INDEX audits ON events (device_id, label, id) WHERE label IS NOT NULL AND acknowledged_ms IS NULL
""",
)
