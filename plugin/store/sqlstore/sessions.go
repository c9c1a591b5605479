package sqlstore

import (
	"database/sql"
	"time"

	"github.com/keygate-dev/keygate/plugin/management/auth"
)

// sessionColumns are the columns of the table sessions that sessionInto scans.
const sessionColumns = `id, keyspace, digest, kind, tenant, token, name, scopes, return_url, created_at, created_ip,
	expires_at, last_used_at, last_used_ip, ended_at`

func sessionInto(s *auth.Session) []any {
	return []any{&s.ID, &s.Keyspace, &s.Digest, &s.Kind, &s.Tenant, &s.Token, &s.Name, wordsInto{&s.Scopes}, &s.ReturnURL,
		TimeInto(&s.CreatedAt), &s.CreatedIP, TimeInto(&s.ExpiresAt), TimeInto(&s.LastUsedAt), &s.LastUsedIP, TimeInto(&s.EndedAt)}
}

func (t *Tx) session(where string, args ...any) (*auth.Session, error) {
	var s auth.Session
	if err := t.Row(`SELECT `+sessionColumns+` FROM sessions `+where, args, sessionInto(&s)...); err != nil {
		return nil, err
	}
	return &s, nil
}

// Session implements auth.SessionTx.
func (t *Tx) Session(keyspace, id string) (*auth.Session, error) {
	return t.session(`WHERE id = $1 AND keyspace = $2`, id, keyspace)
}

// SessionByDigest implements auth.SessionTx.
func (t *Tx) SessionByDigest(digest []byte) (*auth.Session, error) {
	return t.session(`WHERE digest = $1`, digest)
}

// Sessions implements auth.SessionTx.
func (t *Tx) Sessions(q auth.SessionQuery) (out []*auth.Session, err error) {
	var w where
	w.and("keyspace = " + w.arg(q.Keyspace))
	if q.Tenant != "" {
		w.and("tenant = " + w.arg(q.Tenant))
	}
	if q.Before != "" {
		w.and("num < (SELECT num FROM sessions WHERE id = " + w.arg(q.Before) + " AND keyspace = " + w.arg(q.Keyspace) + ")")
	}
	err = t.Rows(`SELECT `+sessionColumns+` FROM sessions`+w.text+` ORDER BY num DESC`+w.limit(q.Limit), w.args, func(rows *sql.Rows) error {
		var s auth.Session
		out = append(out, &s)
		return rows.Scan(sessionInto(&s)...)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// InsertSession implements auth.SessionTx.
func (t *Tx) InsertSession(s *auth.Session) error {
	scopes := s.Scopes
	if s.Kind == auth.SessionByToken {
		scopes = nil
	}
	_, err := t.Exec(`INSERT INTO sessions (`+sessionColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`,
		s.ID, s.Keyspace, s.Digest, string(s.Kind), s.Tenant, s.Token, s.Name, words(scopes), s.ReturnURL, Micros(s.CreatedAt), s.CreatedIP,
		Micros(s.ExpiresAt), Micros(s.LastUsedAt), s.LastUsedIP, Micros(s.EndedAt))
	return err
}

// EndSession implements auth.SessionTx.
func (t *Tx) EndSession(keyspace, id string, at time.Time) (bool, error) {
	n, err := t.Exec(`UPDATE sessions SET ended_at = $3 WHERE id = $1 AND keyspace = $2 AND ended_at IS NULL`, id, keyspace, at.UnixMicro())
	return n > 0, err
}

// TouchSession implements auth.SessionTx.
func (t *Tx) TouchSession(id string, at time.Time, ip string) error {
	_, err := t.Exec(`UPDATE sessions SET last_used_at = $2, last_used_ip = $3 WHERE id = $1 AND last_used_at < $2`, id, at.UnixMicro(), ip)
	return err
}

const portalColumns = `id, keyspace, digest, tenant, token, name, role, return_url, created_at, expires_at`

// InsertPortalLink implements auth.SessionTx.
func (t *Tx) InsertPortalLink(l *auth.PortalLink) error {
	_, err := t.Exec(`INSERT INTO portal_links (`+portalColumns+`, used_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
		l.ID, l.Keyspace, l.Digest, l.Tenant, l.Token, l.Name, string(l.Role), l.ReturnURL, Micros(l.CreatedAt), Micros(l.ExpiresAt), Micros(l.UsedAt))
	return err
}

// PortalLink implements auth.SessionTx.
func (t *Tx) PortalLink(keyspace string, digest []byte) (*auth.PortalLink, error) {
	return t.portalLink(`SELECT `+portalColumns+` FROM portal_links WHERE keyspace = $1 AND digest = $2 AND used_at IS NULL`, keyspace, digest)
}

// UsePortalLink implements auth.SessionTx. One statement finds the link and marks it as used, so
// that only one of two transactions can use it.
func (t *Tx) UsePortalLink(keyspace string, digest []byte, at time.Time) (*auth.PortalLink, error) {
	return t.portalLink(`UPDATE portal_links SET used_at = $3 WHERE keyspace = $1 AND digest = $2 AND used_at IS NULL RETURNING `+portalColumns,
		keyspace, digest, at.UnixMicro())
}

func (t *Tx) portalLink(statement string, args ...any) (*auth.PortalLink, error) {
	var l auth.PortalLink
	err := t.Row(statement, args,
		&l.ID, &l.Keyspace, &l.Digest, &l.Tenant, &l.Token, &l.Name, &l.Role, &l.ReturnURL, TimeInto(&l.CreatedAt), TimeInto(&l.ExpiresAt))
	if err != nil {
		return nil, err
	}
	return &l, nil
}

// PruneSessions implements auth.SessionTx.
func (t *Tx) PruneSessions(before time.Time) error {
	if _, err := t.Exec(`DELETE FROM portal_links WHERE expires_at < $1`, before.UnixMicro()); err != nil {
		return err
	}
	_, err := t.Exec(`DELETE FROM sessions WHERE expires_at < $1`, before.UnixMicro())
	return err
}
