-- By how many nanoseconds sooner than stops_by an instance judges no more, for single keyspaces, and
-- under '' for the others: {"of": "<instance>", "by": {"<keyspace>": n}}. What says nothing of the
-- row's instance, since one of before this wrote the row, says that it stops nowhere sooner.
ALTER TABLE nodes ADD COLUMN earlier TEXT NOT NULL DEFAULT '{}';

-- Programs that know at least that many migrations can use this database, though it may have had
-- more since: those only added to it.
INSERT INTO meta (name, value) VALUES ('oldest_program', '11');
