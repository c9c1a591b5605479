-- Under which mark a key was imported, so that importing it again does nothing even
-- after its digest was replaced by another form, or it was deleted.
CREATE TABLE import_marks (
	keyspace TEXT   NOT NULL,
	mark     $BYTES NOT NULL,
	key_num  BIGINT NOT NULL REFERENCES keys (num),
	PRIMARY KEY (keyspace, mark)
) $COMPACT;
