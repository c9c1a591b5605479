-- By how many nanoseconds sooner than stops_by an instance judges no more, for single keyspaces, and
-- under '' for the others: {"of": "<instance>", "by": {"<keyspace>": n}}. What says nothing of the
-- row's instance, since one of before this wrote the row, says that it stops nowhere sooner.
ALTER TABLE nodes ADD COLUMN earlier TEXT NOT NULL DEFAULT '{}';
