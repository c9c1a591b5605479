-- Times are Unix microseconds, NULL for no time. Flags are 0 and 1. $SERIAL, $BYTES and $COMPACT
-- are replaced by each database's own syntax: see Dialect.Types.

-- Properties of the database, such as its id and its epoch.
CREATE TABLE meta (
	name  TEXT NOT NULL PRIMARY KEY,
	value TEXT NOT NULL
);
-- The epoch rises when a backup is restored. A database with a lower epoch is an older copy.
INSERT INTO meta (name, value) VALUES ('epoch', '1');

-- The migrations that were applied.
CREATE TABLE schema_version (
	version BIGINT NOT NULL PRIMARY KEY,
	name    TEXT   NOT NULL,
	at      BIGINT NOT NULL
);

-- Counters. A transaction that takes a number locks the counter's row until it ends, so numbers
-- become visible in order and without gaps.
CREATE TABLE sequences (
	name  TEXT   NOT NULL PRIMARY KEY,
	value BIGINT NOT NULL
);
INSERT INTO sequences (name, value) VALUES ('changes', 0), ('audit', 0);

CREATE TABLE peppers (
	id          TEXT NOT NULL PRIMARY KEY,
	check_value TEXT NOT NULL
);

-- The row of a deleted tenant stays for ever, so that no other tenant gets its slug.
CREATE TABLE tenants (
	num         $SERIAL,
	keyspace    TEXT    NOT NULL,
	slug        TEXT    NOT NULL,
	folded      TEXT    NOT NULL, -- slug in lower case
	name        TEXT    NOT NULL,
	plan        TEXT    NOT NULL,
	active      INTEGER NOT NULL,
	rate        TEXT    NOT NULL,
	quota       TEXT    NOT NULL,
	concurrency TEXT    NOT NULL,
	metadata    TEXT,
	created_at  BIGINT,
	updated_at  BIGINT,
	deleted_at  BIGINT,
	version     BIGINT  NOT NULL,
	credits     BIGINT  NOT NULL DEFAULT 0 CHECK (credits >= 0)
);
CREATE UNIQUE INDEX tenants_slug ON tenants (keyspace, folded);
CREATE INDEX tenants_plan ON tenants (keyspace, plan, folded) WHERE deleted_at IS NULL;

CREATE TABLE keys (
	num           $SERIAL, -- rises in the order of creation
	id            TEXT    NOT NULL,
	keyspace      TEXT    NOT NULL,
	tenant_num    BIGINT  NOT NULL REFERENCES tenants (num),
	name          TEXT    NOT NULL,
	description   TEXT    NOT NULL,
	environment   TEXT    NOT NULL,
	scopes        TEXT,             -- separated by spaces
	disabled      INTEGER NOT NULL,
	revoked_at    BIGINT,
	deleted_at    BIGINT,
	expires_at    BIGINT,
	allowed_ips   TEXT    NOT NULL, -- separated by spaces
	rate          TEXT    NOT NULL,
	quota         TEXT    NOT NULL,
	concurrency   TEXT    NOT NULL,
	credits_limit BIGINT,
	metadata      TEXT,
	created_at    BIGINT,
	created_by    TEXT    NOT NULL,
	updated_at    BIGINT,
	last_used_at  BIGINT,
	last_used_ip  TEXT    NOT NULL,
	prefix        TEXT    NOT NULL,
	last_four     TEXT    NOT NULL,
	version       BIGINT  NOT NULL
);
CREATE UNIQUE INDEX keys_id ON keys (id);
CREATE INDEX keys_keyspace ON keys (keyspace, num);
CREATE INDEX keys_tenant ON keys (tenant_num, num);
CREATE INDEX keys_prefix ON keys (keyspace, prefix);
-- By this index a tenant's active keys are counted without reading their rows.
CREATE INDEX keys_active ON keys (tenant_num, expires_at)
	WHERE disabled = 0 AND revoked_at IS NULL AND deleted_at IS NULL;

-- A look-up probes the index secrets_digest once and three tables by row number. Listing all
-- digests reads that index alone.
CREATE TABLE secrets (
	num          $SERIAL,
	id           TEXT   NOT NULL,
	key_num      BIGINT NOT NULL REFERENCES keys (num),
	keyspace     TEXT   NOT NULL,
	digest       $BYTES NOT NULL,
	algorithm    TEXT   NOT NULL,
	prefix       TEXT   NOT NULL,
	last_four    TEXT   NOT NULL,
	created_at   BIGINT,
	expires_at   BIGINT,
	last_used_at BIGINT,
	last_used_ip TEXT   NOT NULL
);
CREATE UNIQUE INDEX secrets_digest ON secrets (keyspace, digest);
CREATE UNIQUE INDEX secrets_id ON secrets (id);
CREATE INDEX secrets_key ON secrets (key_num, num);

-- All changes of balances. Credits spent by requests are added up in one row per key and hour; in
-- all other rows, hour is NULL.
CREATE TABLE ledger (
	seq        $SERIAL,
	tenant_num BIGINT NOT NULL REFERENCES tenants (num),
	key_id     TEXT   NOT NULL,
	kind       TEXT   NOT NULL,
	hour       BIGINT,
	amount     BIGINT NOT NULL,
	balance    BIGINT NOT NULL,
	reference  TEXT   NOT NULL,
	actor      TEXT   NOT NULL,
	at         BIGINT NOT NULL
);
CREATE INDEX ledger_tenant ON ledger (tenant_num, seq);
CREATE UNIQUE INDEX ledger_hour ON ledger (tenant_num, key_id, kind, hour) WHERE hour IS NOT NULL;

-- A node's leases of credits last until lease_until. Each write of the node sets a later time.
CREATE TABLE nodes (
	name        TEXT   NOT NULL PRIMARY KEY,
	lease_until BIGINT NOT NULL
);
CREATE TABLE leases (
	tenant_num BIGINT NOT NULL REFERENCES tenants (num),
	node       TEXT   NOT NULL,
	amount     BIGINT NOT NULL,
	PRIMARY KEY (tenant_num, node)
) $COMPACT;
CREATE INDEX leases_node ON leases (node);

-- Counts of quotas. start is 0 for a quota without periods.
CREATE TABLE quota_counts (
	subject  TEXT    NOT NULL,
	calendar INTEGER NOT NULL,
	start    BIGINT  NOT NULL,
	used     BIGINT  NOT NULL,
	PRIMARY KEY (subject, calendar, start)
) $COMPACT;

CREATE TABLE changes (
	seq      $SERIAL,
	kind     TEXT   NOT NULL,
	keyspace TEXT   NOT NULL,
	id       TEXT   NOT NULL,
	at       BIGINT NOT NULL
);

-- The audit chain: hash covers prev, which is the hash of the event before, and all other columns
-- except personal and salt.
CREATE TABLE audit (
	seq           $SERIAL,
	id            TEXT   NOT NULL,
	keyspace      TEXT   NOT NULL,
	at            BIGINT NOT NULL,
	action        TEXT   NOT NULL,
	target        TEXT   NOT NULL,
	tenant        TEXT   NOT NULL,
	key_id        TEXT   NOT NULL,
	via           TEXT   NOT NULL,
	before        TEXT,
	after         TEXT,
	personal      TEXT,
	salt          $BYTES,
	personal_hash $BYTES,
	prev          $BYTES,
	hash          $BYTES NOT NULL
);
CREATE UNIQUE INDEX audit_id ON audit (id);
CREATE INDEX audit_keyspace ON audit (keyspace, seq);
CREATE INDEX audit_tenant ON audit (keyspace, tenant, seq);
CREATE INDEX audit_key ON audit (key_id, seq);
