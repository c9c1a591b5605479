-- By which name this store is told from others; a key under which numbers of sequences are
-- written in cursors; and which head of the audit chain was given out last: its seq, when,
-- and its hash.
INSERT INTO meta (name, value) VALUES
	('store_id', replace(gen_random_uuid()::text, '-', '')),
	('cursor_key', replace(gen_random_uuid()::text, '-', '')),
	('audit_head', '0 0 ');
