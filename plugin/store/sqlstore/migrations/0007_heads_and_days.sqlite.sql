-- store_id identifies this store among others. cursor_key encrypts row numbers in cursors.
-- audit_head is the checkpoint of the audit chain that was published last: number, time and hash.
INSERT INTO meta (name, value) VALUES
	('store_id', lower(hex(randomblob(16)))),
	('cursor_key', lower(hex(randomblob(16)))),
	('audit_head', '0 0 ');

-- The usage of days. The hours that were added up to a day are deleted.
CREATE TABLE usage_days (
	keyspace        TEXT   NOT NULL,
	day             BIGINT NOT NULL, -- beginning of the day, in Unix seconds
	key_id          TEXT   NOT NULL,
	node            TEXT   NOT NULL,
	tenant          TEXT   NOT NULL,
	requests        BIGINT NOT NULL,
	allowed         BIGINT NOT NULL,
	refused         TEXT   NOT NULL,
	upstream_errors BIGINT NOT NULL,
	credits         BIGINT NOT NULL,
	bytes_in        BIGINT NOT NULL,
	bytes_out       BIGINT NOT NULL,
	latency         $BYTES,
	PRIMARY KEY (keyspace, day, key_id, node)
) $COMPACT;
CREATE INDEX usage_days_key ON usage_days (key_id, day);
CREATE INDEX usage_days_tenant ON usage_days (keyspace, tenant, day);

-- By these indexes old rows are found and deleted.
CREATE INDEX event_marks_at ON event_marks (at);
CREATE INDEX quota_counts_start ON quota_counts (start) WHERE start > 0;
