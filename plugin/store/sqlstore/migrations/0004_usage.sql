-- The usage of each key in each hour. Each node has rows of its own, so that two nodes never write
-- the same row. Keys and tenants are not foreign keys, since their usage outlives them.
CREATE TABLE usage (
	keyspace        TEXT   NOT NULL,
	hour            BIGINT NOT NULL, -- beginning of the hour, in Unix seconds
	key_id          TEXT   NOT NULL,
	node            TEXT   NOT NULL,
	tenant          TEXT   NOT NULL, -- slug
	requests        BIGINT NOT NULL,
	allowed         BIGINT NOT NULL,
	refused         TEXT   NOT NULL, -- rejections as reason:count, separated by spaces
	upstream_errors BIGINT NOT NULL,
	credits         BIGINT NOT NULL,
	bytes_in        BIGINT NOT NULL,
	bytes_out       BIGINT NOT NULL,
	latency         $BYTES,          -- a histogram; NULL if it is empty
	PRIMARY KEY (keyspace, hour, key_id, node)
) $COMPACT;
CREATE INDEX usage_key ON usage (key_id, hour);
CREATE INDEX usage_tenant ON usage (keyspace, tenant, hour);

-- The last batch of each writer of usage, so that a batch that is sent twice counts once.
CREATE TABLE usage_writers (
	writer     TEXT   NOT NULL PRIMARY KEY,
	seq        BIGINT NOT NULL,
	until      BIGINT NOT NULL, -- all requests that ended before are counted
	written_at BIGINT NOT NULL
) $COMPACT;

-- The last requests of keys. A row holds several requests, the oldest first.
CREATE TABLE recent_requests (
	seq        $SERIAL, -- rises in the order of writing
	keyspace   TEXT    NOT NULL,
	key_id     TEXT    NOT NULL,
	newest     BIGINT  NOT NULL,
	expires_at BIGINT  NOT NULL,
	n          INTEGER NOT NULL, -- number of requests
	entries    TEXT    NOT NULL  -- a JSON list
);
CREATE INDEX recent_requests_key ON recent_requests (key_id, seq);
CREATE INDEX recent_requests_expires ON recent_requests (expires_at);
