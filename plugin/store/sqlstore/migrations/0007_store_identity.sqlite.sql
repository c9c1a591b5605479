-- By which name this store is told from others; a key under which numbers of sequences are
-- written in cursors; and which head of the audit chain was given out last: its seq, when,
-- and its hash.
INSERT INTO meta (name, value) VALUES
	('store_id', lower(hex(randomblob(16)))),
	('cursor_key', lower(hex(randomblob(16)))),
	('audit_head', '0 0 ');
