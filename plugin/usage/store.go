package usage

import (
	"context"
	"time"
)

// Row is what one key did in one hour, or a part of it; or in one day.
type Row struct {
	Keyspace string
	Tenant   string
	Key      string
	// Hour is its beginning, in UTC.
	Hour time.Time
	// Whole says that it is of the whole day that begins then: that day's hours are not kept any more.
	Whole bool
	*Counts
}

// Batch is what a process counted since it last wrote.
type Batch struct {
	// Writer names the process, and Seq numbers its batches from 1: the store takes each once, however
	// often it is written, since whoever writes it may not learn that it was committed.
	Writer string
	Seq    int64
	// Node is where it was counted: nodes that share a store have rows of their own.
	Node string
	// Until is when the batch was closed: whatever ended before is in it or in an earlier one.
	Until time.Time
	// Rows are to be added to what is stored.
	Rows   []Row
	Chunks []Chunk
}

// Chunk is some of the last requests of one key, oldest first.
type Chunk struct {
	Keyspace string
	Key      string
	// Newest is when the last of them ended, and Expires when none is to be kept any more.
	Newest, Expires time.Time
	// Count is how many there are, Entries their encoded form.
	Count   int
	Entries []byte
	// Keep is how many of the key's requests are kept in all. 0: nobody looks after that
	// with this chunk.
	Keep int

	// Seq orders a key's chunks; the store gives it.
	Seq int64
}

// Query selects rows of a keyspace. Empty fields select all.
type Query struct {
	Keyspace    string
	Tenant, Key string
	// From and To bound the rows' hours: From is included, To is not. Days of which a part is in these
	// bounds are selected too.
	From, To time.Time
}

// Store is what usage needs of a store. Its errors wrap gateway.ErrStore; every method
// may block within ctx and be called from many goroutines.
type Store interface {
	// WriteUsage adds a batch in one transaction, once. A key's chunks beyond Keep requests are dropped.
	WriteUsage(ctx context.Context, b *Batch) error
	// ReadUsage calls yield with every row, by hour and key ascending, until it returns
	// an error, which it returns. A key has several rows of an hour where several nodes counted. The
	// row is yield's for the call alone.
	ReadUsage(ctx context.Context, q Query, yield func(*Row) error) error
	// UsageUntil returns the latest Until of all batches; the zero time where there is none.
	UsageUntil(ctx context.Context) (time.Time, error)
	// RecentRequests returns a key's chunks, newest first.
	RecentRequests(ctx context.Context, keyspace, key string) ([]Chunk, error)
	// RollUsage adds up hours that are before what before returns for their keyspace, in whole days: the rows
	// of the day take their place. It does so with a bounded number of them, the oldest, and says
	// whether it found any.
	RollUsage(ctx context.Context, before func(keyspace string) time.Time) (more bool, err error)
	// PruneUsage drops chunks that have expired, counts of quotas whose period is long over, and what is
	// known of writers that have been silent since before silent.
	PruneUsage(ctx context.Context, now, silent time.Time) error
}
