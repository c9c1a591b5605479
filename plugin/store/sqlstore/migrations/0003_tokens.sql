-- Management tokens. The row of a revoked token stays: it shows who created the token, and which
-- tokens it created.
CREATE TABLE tokens (
	num              $SERIAL, -- rises in the order of creation
	id               TEXT   NOT NULL,
	keyspace         TEXT   NOT NULL,
	name             TEXT   NOT NULL,
	scopes           TEXT   NOT NULL, -- separated by spaces
	tenant           TEXT   NOT NULL, -- the only tenant it may manage, by slug; empty for all
	digest           $BYTES NOT NULL,
	algorithm        TEXT   NOT NULL,
	prefix           TEXT   NOT NULL,
	last_four        TEXT   NOT NULL,
	created_at       BIGINT NOT NULL,
	created_by       TEXT   NOT NULL,
	created_by_token TEXT   NOT NULL, -- id; empty if no token created it
	expires_at       BIGINT,
	last_used_at     BIGINT,
	last_used_ip     TEXT   NOT NULL,
	revoked_at       BIGINT
);
CREATE UNIQUE INDEX tokens_id ON tokens (id);
CREATE UNIQUE INDEX tokens_digest ON tokens (digest);
CREATE INDEX tokens_keyspace ON tokens (keyspace, tenant, num);
CREATE INDEX tokens_made ON tokens (created_by_token);

-- Idempotency records: requests that are carried out once, however often they are sent.
CREATE TABLE idempotency (
	id         $BYTES  NOT NULL PRIMARY KEY, -- digest of the caller and of the idempotency key
	request    $BYTES  NOT NULL, -- digest of the request
	claim      TEXT    NOT NULL, -- names the attempt that carries it out
	claimed_at BIGINT  NOT NULL,
	expires_at BIGINT  NOT NULL,
	-- The effect, written in the transaction of the change itself; empty before.
	action     TEXT    NOT NULL,
	target     TEXT    NOT NULL,
	balance    BIGINT,
	-- The response without secrets; status is 0 before there is one.
	status     INTEGER NOT NULL,
	etag       TEXT    NOT NULL,
	body       TEXT    NOT NULL
) $COMPACT;
CREATE INDEX idempotency_expires ON idempotency (expires_at);
