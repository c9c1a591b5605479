-- The nodes that share this database. contact_at is NULL in a row that is only there for leases.
ALTER TABLE nodes ADD COLUMN instance TEXT NOT NULL DEFAULT '';
ALTER TABLE nodes ADD COLUMN version TEXT NOT NULL DEFAULT '';
ALTER TABLE nodes ADD COLUMN config TEXT NOT NULL DEFAULT '';
ALTER TABLE nodes ADD COLUMN seq BIGINT NOT NULL DEFAULT 0; -- the newest change that it applied
ALTER TABLE nodes ADD COLUMN ready INTEGER NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN keys_cached BIGINT NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN started_at BIGINT;
ALTER TABLE nodes ADD COLUMN contact_at BIGINT;
ALTER TABLE nodes ADD COLUMN stops_by BIGINT; -- deadline: it stops accepting keys then, unless it reports again

CREATE INDEX changes_at ON changes (at);
