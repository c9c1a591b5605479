-- The id of the key whose allowance a key has taken over, so that what was spent of the plan's limits
-- per key stays spent. '' means that the key has its own.
ALTER TABLE keys ADD COLUMN allowance TEXT NOT NULL DEFAULT '';
CREATE INDEX keys_allowance ON keys (allowance)
	WHERE allowance <> '' AND disabled = 0 AND revoked_at IS NULL AND deleted_at IS NULL;
