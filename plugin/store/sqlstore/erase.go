package sqlstore

import "time"

// aheadOfTouches is by how much a forgotten key's last use is put off: what nodes have still
// to write of it is earlier by any clock, so the address it was used from stays forgotten.
const aheadOfTouches = time.Hour

// eraseRecords forgets what rows say of the people of a tenant: free text, names and
// addresses. Counts, amounts and times stay. What management was asked to carry out once is not
// looked through: it is gone within a day.
func (t *tx) eraseRecords(keyspace, tenant string) error {
	const which = `(SELECT num FROM tenants WHERE keyspace = $1 AND folded = $2)`
	folded := fold(tenant)
	for _, s := range []string{
		`DELETE FROM recent_requests WHERE key_id IN (SELECT id FROM keys WHERE tenant_num = ` + which + `)`,
		`UPDATE secrets SET last_used_ip = '' WHERE key_num IN (SELECT num FROM keys WHERE tenant_num = ` + which + `)`,
		`UPDATE ledger SET reference = '', actor = '' WHERE tenant_num = ` + which,
		`UPDATE tenants SET name = '', metadata = NULL WHERE num = ` + which,
		`UPDATE tokens SET name = '', created_by = '', last_used_ip = ''
			WHERE keyspace = $1 AND tenant = (SELECT slug FROM tenants WHERE keyspace = $1 AND folded = $2)`,
		`DELETE FROM sessions WHERE keyspace = $1 AND tenant = (SELECT slug FROM tenants WHERE keyspace = $1 AND folded = $2)`,
		`DELETE FROM portal_links WHERE keyspace = $1 AND tenant = (SELECT slug FROM tenants WHERE keyspace = $1 AND folded = $2)`,
	} {
		if _, err := t.exec(s, keyspace, folded); err != nil {
			return err
		}
	}
	_, err := t.exec(`UPDATE keys SET name = '', description = '', metadata = NULL, created_by = '', allowed_ips = '', last_used_ip = '', last_used_at = $3
		WHERE tenant_num = `+which, keyspace, folded, t.now.Add(aheadOfTouches).UnixMicro())
	return err
}
