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

// Service reports usage to the actors of package management, each as much as the actor may see.
// Safe for concurrent use.
type Service struct {
	Manager *management.Manager
	Store   Store
	// CompleteUntil returns the time up to which all counts are in the store. It returns the zero time if that is unknown.
	CompleteUntil func() time.Time
	// Flush writes the last requests that are not in the store yet.
	Flush func(context.Context) error
	// Log returns how a keyspace's last requests are kept; nil where they are not.
	Log func(keyspace string) *Log
}

// Range is the period that a report covers.
type Range struct {
	// From and To are the bounds of the period. Each is moved outwards to a whole step. Default: the last 24 hours or, by day,
	// the last 30 days.
	From, To time.Time
	// Step is the period of one line. Default: ByHour.
	Step Step
}

const (
	// maxLines bounds the lines of a report.
	maxLines = 100_000
	// maxRange bounds the period of a report.
	maxRange = 3 * 366 * 24 * time.Hour
)

// toSteps fills in the defaults and moves the bounds to whole steps.
func (r Range) toSteps(now time.Time) (Range, error) {
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

// OfKey reports the usage of a key, which may be deleted.
func (s *Service) OfKey(ctx context.Context, a management.Actor, keyspace, id string, r Range) (Report, error) {
	k, err := s.Manager.FormerKey(ctx, a, keyspace, id)
	if err != nil {
		return Report{}, err
	}
	return s.report(ctx, Query{Keyspace: k.Keyspace, Key: k.ID}, r, Together)
}

// OfTenant reports the usage of all keys of a tenant. The tenant and its keys may be deleted.
func (s *Service) OfTenant(ctx context.Context, a management.Actor, keyspace, slug string, r Range) (Report, error) {
	t, err := s.Manager.FormerTenant(ctx, a, keyspace, slug)
	if err != nil {
		return Report{}, err
	}
	return s.report(ctx, Query{Keyspace: t.Keyspace, Tenant: t.Slug}, r, Together)
}

// OfAll reports the usage of a keyspace, or of the part that the actor may see.
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
	if r, err = r.toSteps(time.Now()); err != nil {
		return out, err
	}
	// CompleteUntil is read before the rows. So the rows include all requests that ended before that time.
	if until := s.CompleteUntil(); !until.IsZero() {
		until = until.Truncate(time.Microsecond)
		out.CompleteUntil = &until
	}
	q.From, q.To = r.From, r.To
	lines := newSums(r.Step, g)
	err = s.Store.ReadUsage(ctx, q, func(row *Row) error {
		if row.Daily && r.Step == ByHour {
			return management.BadParameter("from", fmt.Sprintf("the hours of %s are no longer kept, only the day: ask by day (step=day), or from a later time", row.Hour.Format(time.DateOnly)))
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

// storedRequest is a request with the number of its chunk and its index in the chunk.
type storedRequest struct {
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
	var rows []storedRequest
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
		rows = slices.DeleteFunc(rows, func(r storedRequest) bool { return r.seq > after.Seq || r.seq == after.Seq && r.at >= after.At })
	}
	if len(rows) > limit {
		rows = rows[:limit+1]
	}
	found := management.PageOf(cursors, management.RequestCursor, rows, limit, func(r storedRequest) management.Place {
		return management.Place{Seq: r.seq, At: r.at}
	})
	page.NextCursor = found.NextCursor
	page.Data = make([]RequestRecord, len(found.Data))
	for i := range found.Data {
		page.Data[i] = found.Data[i].RequestRecord
	}
	return page, nil
}

// newest returns the requests of the chunks that are still kept, newest first.
func newest(chunks []Chunk, log *Log, now time.Time) ([]storedRequest, error) {
	var out []storedRequest
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
			out = append(out, storedRequest{records[i], c.Seq, i})
		}
	}
	return out, nil
}

// Unavailable returns the error for requests before the store is open.
func Unavailable() *management.Error {
	return &management.Error{
		Status: http.StatusServiceUnavailable, Code: management.CodeStoreUnavailable,
		Detail: "Usage can't be read here yet; try again.",
	}
}
