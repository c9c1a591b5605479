package gateway

import "context"

// Source is a store of which others keep a copy, so that they can answer alone. A copy is
// made and kept so:
//
//  1. Export: every row as of one moment, and the seq of the newest change among them.
//  2. From there on Changes, in order: for each, the rows that it names are read anew from
//     the source and replace those of the copy. Store.Wait tells when to look.
//  3. Where Changes does not go on from the last one applied, either the source has dropped
//     what came between, or it is not the one that was copied: its Seq is missing among
//     those from Seq on, or has another Mark. Then begin again at 1.
//
// What requests leave behind (last use, counts, and a secret's digest in another form) is
// no change.
type Source interface {
	Store
	// Export calls the methods of to with all tenants, then all keys, then all secrets of
	// every keyspace, deleted ones too, as they were at one moment, and returns the newest
	// change then, the zero Change where there was none. It blocks for as long as that takes and holds up
	// nobody. What to is given is good during the call only; its first error ends it.
	Export(ctx context.Context, to Copy) (newest Change, err error)
}

// Copy takes what Source.Export gives.
type Copy interface {
	Tenant(*Tenant) error
	Key(*Key) error
	Secret(*Secret) error
}
