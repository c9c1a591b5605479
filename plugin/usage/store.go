package usage

import (
	"context"
	"time"
)

// Row holds the counts of one key in one hour, in a part of it, or in one day.
type Row struct {
	Keyspace string
	Tenant   string
	Key      string
	// Hour is the beginning of the hour or day, in UTC.
	Hour time.Time
	// Daily reports whether the row covers the whole day that begins at Hour. The hours of that day are no longer kept.
	Daily bool
	*Counts
}

// Batch holds the counts of a process since its last batch.
type Batch struct {
	// Writer names the process, and Seq numbers the batches of the process from 1. The store adds each batch once, even if it is
	// written several times, because a writer may not learn that its batch was committed.
	Writer string
	Seq    int64
	// Node names the node that counted. Nodes that share a store have separate rows.
	Node string
	// Until is when the batch was closed. Each request that ended before Until is in this batch or in an earlier one.
	Until time.Time
	// Rows are added to the stored rows.
	Rows   []Row
	Chunks []Chunk
}

// Chunk holds some of the last requests of one key, oldest first.
type Chunk struct {
	Keyspace string
	Key      string
	// Newest is when the last of the requests ended. Expires is when all of them have expired.
	Newest, Expires time.Time
	// Count is the number of requests, Entries their encoded form.
	Count   int
	Entries []byte
	// Keep is the number of the key's last requests that stay in the store when this chunk is
	// written. The store deletes older requests; for 0 it deletes none.
	Keep int

	// Seq orders a key's chunks. The store sets it.
	Seq int64
}

// Query selects rows of a keyspace. Empty fields select all.
type Query struct {
	Keyspace    string
	Tenant, Key string
	// From and To bound the rows' hours: From is included, To is not. Days that overlap these bounds are selected too.
	From, To time.Time
}

// Store stores usage. Its errors wrap gateway.ErrStore. Each method may block within ctx. Safe for concurrent use.
type Store interface {
	// WriteUsage adds a batch in one transaction. It does nothing for a batch that was added
	// before. It drops a key's chunks beyond Keep requests.
	WriteUsage(ctx context.Context, b *Batch) error
	// ReadUsage calls yield with each row, by hour and key ascending, until yield returns an error, and returns that
	// error. A key has several rows of an hour if several nodes counted. The row is valid only during the call.
	ReadUsage(ctx context.Context, q Query, yield func(*Row) error) error
	// UsageUntil returns the latest Until of all batches; the zero time where there is none.
	UsageUntil(ctx context.Context) (time.Time, error)
	// RecentRequests returns a key's chunks, newest first.
	RecentRequests(ctx context.Context, keyspace, key string) ([]Chunk, error)
	// RollUsage combines hours into rows of whole days: all hours before the time that before
	// returns for their keyspace. One call handles a bounded number of the oldest, and reports
	// whether it found any.
	RollUsage(ctx context.Context, before func(keyspace string) time.Time) (more bool, err error)
	// PruneUsage drops expired chunks, counts of quotas whose period is long over, and the records of writers without a
	// batch since silent.
	PruneUsage(ctx context.Context, now, silent time.Time) error
}
