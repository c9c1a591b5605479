-- What is refused although no row here says so: it is still to be written to the database
-- that this is a copy of, or there is no row of what it is about, because the database is
-- an older one than that in which it was decided. It holds should that row come back.
CREATE TABLE refused (
	num          $SERIAL,
	action       TEXT   NOT NULL,
	keyspace     TEXT   NOT NULL,
	id           TEXT   NOT NULL,
	about        TEXT   NOT NULL, -- id, a tenant's slug in lower case
	key_id       TEXT   NOT NULL, -- of a secret
	created      BIGINT NOT NULL, -- when the tenant was; another may get its slug. 0 for others
	at           BIGINT NOT NULL,
	actor        TEXT   NOT NULL,
	absent_since BIGINT           -- since when there is no such row; NULL where it is to be written
);
CREATE UNIQUE INDEX refused_about ON refused (about, keyspace, action, created);
CREATE INDEX refused_pending ON refused (num) WHERE absent_since IS NULL;
