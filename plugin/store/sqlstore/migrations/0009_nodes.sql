-- Who shares this database, beside what each has leased. contact_at is NULL where a row
-- is of leases only.
ALTER TABLE nodes ADD COLUMN instance TEXT NOT NULL DEFAULT '';
ALTER TABLE nodes ADD COLUMN version TEXT NOT NULL DEFAULT '';
ALTER TABLE nodes ADD COLUMN config TEXT NOT NULL DEFAULT '';
ALTER TABLE nodes ADD COLUMN seq BIGINT NOT NULL DEFAULT 0; -- the newest change it acts by
ALTER TABLE nodes ADD COLUMN ready INTEGER NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN keys_cached BIGINT NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN started_at BIGINT;
ALTER TABLE nodes ADD COLUMN contact_at BIGINT;
ALTER TABLE nodes ADD COLUMN stops_by BIGINT; -- when it judges no more, unless it says something before

CREATE INDEX changes_at ON changes (at);
