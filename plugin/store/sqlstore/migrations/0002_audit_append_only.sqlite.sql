-- The database itself makes sure that events are only appended, and never changed or removed. Only
-- the personal data of an event may be erased.
CREATE TRIGGER audit_insert BEFORE INSERT ON audit
WHEN NEW.seq IS NULL OR NEW.seq <= (SELECT max(seq) FROM audit)
BEGIN
	SELECT RAISE(ABORT, 'audit events are only added at the end');
END;

CREATE TRIGGER audit_delete BEFORE DELETE ON audit
BEGIN
	SELECT RAISE(ABORT, 'audit events are never removed');
END;

CREATE TRIGGER audit_update BEFORE UPDATE ON audit
WHEN NEW.personal IS NOT NULL OR NEW.salt IS NOT NULL
	OR NEW.seq IS NOT OLD.seq
	OR NEW.id IS NOT OLD.id
	OR NEW.keyspace IS NOT OLD.keyspace
	OR NEW.at IS NOT OLD.at
	OR NEW.action IS NOT OLD.action
	OR NEW.target IS NOT OLD.target
	OR NEW.tenant IS NOT OLD.tenant
	OR NEW.key_id IS NOT OLD.key_id
	OR NEW.via IS NOT OLD.via
	OR NEW.before IS NOT OLD.before
	OR NEW.after IS NOT OLD.after
	OR NEW.personal_hash IS NOT OLD.personal_hash
	OR NEW.prev IS NOT OLD.prev
	OR NEW.hash IS NOT OLD.hash
BEGIN
	SELECT RAISE(ABORT, 'audit events are never changed');
END;
