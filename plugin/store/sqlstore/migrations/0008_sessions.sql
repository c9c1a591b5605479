-- Sessions of people who are signed in to the console. Of the cookie's secret only the digest is
-- stored.
CREATE TABLE sessions (
	num          $SERIAL, -- rises in the order of creation
	id           TEXT   NOT NULL,
	keyspace     TEXT   NOT NULL,
	digest       $BYTES NOT NULL,
	kind         TEXT   NOT NULL, -- how it began: token, identity or portal
	tenant       TEXT   NOT NULL, -- the only tenant it may manage, by slug; empty for all
	token        TEXT   NOT NULL, -- id of the management token whose end ends it; empty for none
	name         TEXT   NOT NULL,
	scopes       TEXT,            -- separated by spaces; NULL for those of the token
	return_url   TEXT   NOT NULL,
	created_at   BIGINT NOT NULL,
	created_ip   TEXT   NOT NULL,
	expires_at   BIGINT NOT NULL,
	last_used_at BIGINT NOT NULL,
	last_used_ip TEXT   NOT NULL,
	ended_at     BIGINT
);
CREATE UNIQUE INDEX sessions_id ON sessions (id);
CREATE UNIQUE INDEX sessions_digest ON sessions (digest);
CREATE INDEX sessions_keyspace ON sessions (keyspace, tenant, num);
CREATE INDEX sessions_expires ON sessions (expires_at);

-- Links by which a person of a tenant can sign in once.
CREATE TABLE portal_links (
	id         TEXT   NOT NULL PRIMARY KEY,
	keyspace   TEXT   NOT NULL,
	digest     $BYTES NOT NULL,
	tenant     TEXT   NOT NULL,
	token      TEXT   NOT NULL, -- id of the management token that created it; empty for none
	name       TEXT   NOT NULL,
	role       TEXT   NOT NULL,
	return_url TEXT   NOT NULL,
	created_at BIGINT NOT NULL,
	expires_at BIGINT NOT NULL,
	used_at    BIGINT
) $COMPACT;
CREATE UNIQUE INDEX portal_links_digest ON portal_links (digest);
CREATE INDEX portal_links_expires ON portal_links (expires_at);
