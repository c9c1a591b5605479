package sqlstore

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/ratelimit/clients"
)

// addressRows limits how many client addresses get a stored count, for each owner of quotas and each
// period. The limit is needed because an attacker has more IPv6 networks than a database has room for.
const addressRows = 50_000

// addressSeq returns the name prefix of a sequence that counts rows of addresses. The name continues
// with the period's start, in 20 digits, and the owner of the quota.
func addressSeq(c ratelimit.Calendar) string { return fmt.Sprintf("addresses/%d/", int(c)) }

// countAll stores usage counts. An address without a row gets a row only while there is room.
// Otherwise its count is marked as Unstored.
func (t *Tx) countAll(counts []gateway.Usage) error {
	fresh := map[string][]*gateway.Usage{} // The map's keys are the names of sequences.
	for i := range counts {
		u := &counts[i]
		u.Unstored = false // An earlier attempt, or a write to another store, may have set Unstored.
		found, err := t.count(u)
		if err != nil {
			return err
		}
		if found {
			continue
		}
		if owner, ok := clients.OwnerOf(u.Subject); ok {
			name := fmt.Sprintf("%s%020d/%s", addressSeq(u.Calendar), startOf(u), owner)
			fresh[name] = append(fresh[name], u)
			continue
		}
		if err := t.countFirst(u); err != nil {
			return err
		}
	}
	names := make([]string, 0, len(fresh))
	for name := range fresh {
		names = append(names, name)
	}
	slices.Sort(names) // The names are sorted so that all nodes lock the sequences in the same order.
	for _, name := range names {
		if err := t.countAddresses(name, fresh[name]); err != nil {
			return err
		}
	}
	return nil
}

// countAddresses stores the first counts of addresses while the sequence called name leaves room. It
// marks the remaining counts as Unstored.
func (t *Tx) countAddresses(name string, list []*gateway.Usage) error {
	if _, err := t.Exec(`INSERT INTO sequences (name, value) VALUES ($1, 0) ON CONFLICT (name) DO NOTHING`, name); err != nil {
		return err
	}
	var used int64
	if err := t.Row(`SELECT value FROM sequences WHERE name = $1`+t.lockRow, []any{name}, &used); err != nil {
		return err
	}
	slices.SortFunc(list, func(a, b *gateway.Usage) int { return cmp.Compare(a.Subject, b.Subject) })
	n := min(len(list), max(0, t.addressRows-int(used)))
	for _, u := range list[n:] {
		u.Unstored = true
	}
	if n == 0 {
		return nil
	}
	for _, u := range list[:n] {
		if err := t.countFirst(u); err != nil {
			return err
		}
	}
	_, err := t.Exec(`UPDATE sequences SET value = value + $2 WHERE name = $1`, name, int64(n))
	return err
}
