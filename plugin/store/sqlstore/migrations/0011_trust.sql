-- By how many nanoseconds the deadlines of single keyspaces are earlier than stops_by, and under ''
-- those of all others: {"of": "<instance>", "by": {"<keyspace>": n}}. The text of another instance
-- than the row's is ignored: an older version wrote the row and left this column as it was.
ALTER TABLE nodes ADD COLUMN earlier TEXT NOT NULL DEFAULT '{}';

-- Programs that know at least this many migrations can use the database. Later migrations only
-- added to it.
INSERT INTO meta (name, value) VALUES ('oldest_program', '11');
