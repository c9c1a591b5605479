-- The mark under which a key was imported. By it a second import of the key is recognized, even if
-- its digest was replaced or the key was deleted.
CREATE TABLE import_marks (
	keyspace TEXT   NOT NULL,
	mark     $BYTES NOT NULL,
	key_num  BIGINT NOT NULL REFERENCES keys (num),
	PRIMARY KEY (keyspace, mark)
) $COMPACT;
