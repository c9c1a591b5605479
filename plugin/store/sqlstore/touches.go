package sqlstore

import (
	"slices"
	"strings"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// touchAll stores touches where many nodes do so at once: in a few statements, and locking
// rows in one order, so that no two wait for each other.
func (t *tx) touchAll(touches []gateway.Touch) error {
	if len(touches) == 0 {
		return nil
	}
	if err := t.touchTable("keys", touches, func(in *gateway.Touch) string { return in.KeyID }); err != nil {
		return err
	}
	return t.touchTable("secrets", touches, func(in *gateway.Touch) string { return in.SecretID })
}

func (t *tx) touchTable(table string, touches []gateway.Touch, id func(*gateway.Touch) string) error {
	// The newest of each row.
	newest := make([]*gateway.Touch, len(touches))
	for i := range touches {
		newest[i] = &touches[i]
	}
	slices.SortFunc(newest, func(a, b *gateway.Touch) int {
		if c := strings.Compare(id(a), id(b)); c != 0 {
			return c
		}
		return b.At.Compare(a.At)
	})
	newest = slices.CompactFunc(newest, func(a, b *gateway.Touch) bool { return id(a) == id(b) })
	ids, ats, ips := make([]string, len(newest)), make([]int64, len(newest)), make([]string, len(newest))
	for i, in := range newest {
		ids[i], ats[i], ips[i] = id(in), in.At.UnixMicro(), in.IP
	}
	if _, err := t.exec(`SELECT num FROM `+table+` WHERE id = ANY($1) ORDER BY num FOR NO KEY UPDATE`, ids); err != nil {
		return err
	}
	_, err := t.exec(`UPDATE `+table+` AS r SET last_used_at = v.at, last_used_ip = v.ip
		FROM unnest($1::text[], $2::bigint[], $3::text[]) AS v (id, at, ip)
		WHERE r.id = v.id AND (r.last_used_at IS NULL OR r.last_used_at < v.at)`, ids, ats, ips)
	return err
}
