-- The database itself makes sure that events are only appended, and never changed or removed. Only
-- the personal data of an event may be erased.
CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $audit$
BEGIN
	IF TG_OP = 'INSERT' THEN
		IF NEW.seq <= (SELECT max(seq) FROM audit) THEN
			RAISE EXCEPTION 'audit events are only added at the end';
		END IF;
		RETURN NEW;
	ELSIF TG_OP = 'UPDATE' THEN
		IF NEW.personal IS NULL AND NEW.salt IS NULL
			AND (NEW.seq, NEW.id, NEW.keyspace, NEW.at, NEW.action, NEW.target, NEW.tenant, NEW.key_id, NEW.via,
				NEW.before, NEW.after, NEW.personal_hash, NEW.prev, NEW.hash)
			IS NOT DISTINCT FROM
			(OLD.seq, OLD.id, OLD.keyspace, OLD.at, OLD.action, OLD.target, OLD.tenant, OLD.key_id, OLD.via,
				OLD.before, OLD.after, OLD.personal_hash, OLD.prev, OLD.hash) THEN
			RETURN NEW;
		END IF;
		RAISE EXCEPTION 'audit events are never changed';
	END IF;
	RAISE EXCEPTION 'audit events are never removed';
END
$audit$;

CREATE TRIGGER audit_rows BEFORE INSERT OR UPDATE OR DELETE ON audit
FOR EACH ROW EXECUTE FUNCTION audit_append_only();

CREATE TRIGGER audit_all BEFORE TRUNCATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only();
