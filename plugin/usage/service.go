package usage

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// Service answers what was used, to whom management shows it. Safe for concurrent use.
type Service struct {
	Manager *management.Manager
	Store   Store
	// CompleteUntil says up to when everything is in the store; zero where that is not known.
	CompleteUntil func() time.Time
	// Flush writes what was remembered of requests and is not in the store yet.
	Flush func(context.Context) error
	// Log says how a keyspace's last requests are remembered; nil: they are not.
	Log func(keyspace string) *Log
}

// Range is what a report is about.
type Range struct {
	// From and To bound it; each is moved outwards to a whole step. Default: the 24 hours or, by day,
	// the 30 days up to now.
	From, To time.Time
	// Step is ByHour unless given.
	Step Step
}

const (
	// maxLines bounds a report.
	maxLines = 100_000
	// maxRange bounds what one report reads.
	maxRange = 3 * 366 * 24 * time.Hour
)

// whole fills in the defaults and moves the bounds to whole steps.
func (r Range) whole(now time.Time) (Range, error) {
	switch r.Step {
	case "":
		r.Step = ByHour
	case ByHour, ByDay:
	default:
		return r, management.BadParameter("step", "must be hour or day")
	}
	if r.To.IsZero() {
		r.To = now
	}
	step := r.Step.length()
	if r.From.IsZero() {
		r.From = r.To.Add(-24 * time.Hour)
		if r.Step == ByDay {
			r.From = r.To.AddDate(0, 0, -30)
		}
	}
	if r.To.Before(r.From) {
		return r, management.BadParameter("from", "must not be later than to")
	}
	r.From = r.From.UTC().Truncate(step)
	if to := r.To.UTC().Truncate(step); to.Before(r.To) {
		r.To = to.Add(step)
	} else {
		r.To = to
	}
	if r.To.Sub(r.From) > maxRange {
		return r, management.BadParameter("from", "must be at most three years before to")
	}
	return r, nil
}

// OfKey reports what a key used, also one that was deleted.
func (s *Service) OfKey(ctx context.Context, a management.Actor, keyspace, id string, r Range) (Report, error) {
	k, err := s.Manager.FormerKey(ctx, a, keyspace, id)
	if err != nil {
		return Report{}, err
	}
	return s.report(ctx, Query{Keyspace: k.Keyspace, Key: k.ID}, r, Together)
}

// OfTenant reports what all of a tenant's keys used, also after it or they were deleted.
func (s *Service) OfTenant(ctx context.Context, a management.Actor, keyspace, slug string, r Range) (Report, error) {
	t, err := s.Manager.FormerTenant(ctx, a, keyspace, slug)
	if err != nil {
		return Report{}, err
	}
	return s.report(ctx, Query{Keyspace: t.Keyspace, Tenant: t.Slug}, r, Together)
}

// OfAll reports what was used in a keyspace, as far as it exists for the actor.
func (s *Service) OfAll(ctx context.Context, a management.Actor, keyspace string, r Range, g Group) (Report, error) {
	switch g {
	case Together, PerTenant, PerKey:
	default:
		return Report{}, management.BadParameter("group_by", "must be tenant or key")
	}
	ks, err := s.Manager.Keyspace(keyspace)
	if err != nil {
		return Report{}, err
	}
	return s.report(ctx, Query{Keyspace: ks.Name, Tenant: a.Tenant}, r, g)
}

func (s *Service) report(ctx context.Context, q Query, r Range, g Group) (out Report, err error) {
	if r, err = r.whole(time.Now()); err != nil {
		return out, err
	}
	// Read before the rows: all that ended before it is in them.
	if until := s.CompleteUntil(); !until.IsZero() {
		until = until.Truncate(time.Microsecond)
		out.CompleteUntil = &until
	}
	q.From, q.To = r.From, r.To
	lines := newSums(r.Step, g)
	err = s.Store.ReadUsage(ctx, q, func(row *Row) error {
		if row.Whole && r.Step == ByHour {
			return management.BadParameter("from", fmt.Sprintf("the hours of %s are not kept any more, only the day: ask by day (step=day), or from a later time", row.Hour.Format(time.DateOnly)))
		}
		if lines.add(row) > maxLines {
			return management.BadParameter("from", fmt.Sprintf("there are more than %d lines: ask for less time, or by day", maxLines))
		}
		return nil
	})
	if err != nil {
		return Report{}, err
	}
	out.Data = lines.report()
	return out, nil
}

// placed is a request and where it is stored.
type placed struct {
	RequestRecord
	seq int64
	at  int
}

// Requests returns a key's last requests, newest first.
func (s *Service) Requests(ctx context.Context, a management.Actor, keyspace, id string, q management.PageQuery) (page management.Page[RequestRecord], err error) {
	cursors, err := s.Manager.Cursors(ctx)
	if err != nil {
		return page, err
	}
	limit, after, err := cursors.Read(management.RequestCursor, q)
	if err != nil {
		return page, err
	}
	k, err := s.Manager.FormerKey(ctx, a, keyspace, id)
	if err != nil {
		return page, err
	}
	var rows []placed
	if log := s.Log(k.Keyspace); log != nil {
		if err := s.Flush(ctx); err != nil {
			return page, err
		}
		chunks, err := s.Store.RecentRequests(ctx, k.Keyspace, k.ID)
		if err != nil {
			return page, err
		}
		if rows, err = newest(chunks, log, time.Now()); err != nil {
			return page, err
		}
	}
	if q.Cursor != "" {
		rows = slices.DeleteFunc(rows, func(r placed) bool { return r.seq > after.Seq || r.seq == after.Seq && r.at >= after.At })
	}
	if len(rows) > limit {
		rows = rows[:limit+1]
	}
	found := management.PageOf(cursors, management.RequestCursor, rows, limit, func(r placed) management.Place {
		return management.Place{Seq: r.seq, At: r.at}
	})
	page.NextCursor = found.NextCursor
	page.Data = make([]RequestRecord, len(found.Data))
	for i := range found.Data {
		page.Data[i] = found.Data[i].RequestRecord
	}
	return page, nil
}

// newest returns what of the chunks, newest first, is still to be kept.
func newest(chunks []Chunk, log *Log, now time.Time) ([]placed, error) {
	var out []placed
	for _, c := range chunks {
		var records []RequestRecord
		if err := json.Unmarshal(c.Entries, &records); err != nil {
			return nil, fmt.Errorf("%w: a key's last requests are damaged: %w", gateway.ErrStore, err)
		}
		for i := len(records) - 1; i >= 0; i-- {
			if len(out) == log.Keep {
				return out, nil
			}
			if now.Sub(records[i].Time) > log.For {
				continue
			}
			out = append(out, placed{records[i], c.Seq, i})
		}
	}
	return out, nil
}

// Unavailable refuses while there is no store yet.
func Unavailable() *management.Error {
	return &management.Error{
		Status: http.StatusServiceUnavailable, Code: management.CodeStoreUnavailable,
		Detail: "Usage can't be read here yet; try again.",
	}
}
