-- By which name this store is told from others; a key under which numbers of sequences are
-- written in cursors; and which head of the audit chain was given out last: its seq, when,
-- and its hash.
INSERT INTO meta (name, value) VALUES
	('store_id', lower(hex(randomblob(16)))),
	('cursor_key', lower(hex(randomblob(16)))),
	('audit_head', '0 0 ');

-- Usage of days whose hours are not kept any more.
CREATE TABLE usage_days (
	keyspace        TEXT   NOT NULL,
	day             BIGINT NOT NULL, -- its beginning, in Unix seconds
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

-- By these it is found what nobody asks for any more.
CREATE INDEX event_marks_at ON event_marks (at);
CREATE INDEX quota_counts_start ON quota_counts (start) WHERE start > 0;
