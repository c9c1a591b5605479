-- Revocations that the rows of this database do not show. Either the revocation must still be
-- written to the primary that this database is a copy of. Or there is no row of that id, because an
-- older copy took the place of the database in which it was decided. If the row comes back, it is
-- revoked.
CREATE TABLE refused (
	num          $SERIAL,
	action       TEXT   NOT NULL,
	keyspace     TEXT   NOT NULL,
	id           TEXT   NOT NULL,
	about        TEXT   NOT NULL, -- id; for a tenant its slug in lower case
	key_id       TEXT   NOT NULL, -- the key that a secret belongs to
	created      BIGINT NOT NULL, -- creation of a tenant, since a later one may have its slug; else 0
	at           BIGINT NOT NULL,
	actor        TEXT   NOT NULL,
	absent_since BIGINT           -- since when the id is unknown; NULL if it must be written
);
CREATE UNIQUE INDEX refused_about ON refused (about, keyspace, action, created);
CREATE INDEX refused_pending ON refused (num) WHERE absent_since IS NULL;
