// Package replica keeps a copy of a store on the gateway's machine. A node checks keys by the
// copy, also while the database that the nodes share is unreachable.
//
// The shared database is the primary. The copy is an SQLite file. It is first made in one piece, and then
// follows the primary's changes. Look-ups never leave the machine. Writes, and the reads of
// management, go to the primary.
//
// The package keeps three promises:
//
//   - A key that was revoked by an acknowledged write is never accepted here again without a later,
//     explicit write. So where the primary is not a later state of the copy (a backup was
//     restored, or a standby that was behind took over), the copy's revocations survive. They are
//     written to the primary, hold here meanwhile, and are carried over into the next copy where
//     its rows lack them: in a table of their own where it has no such row. So
//     it does not matter how often the primary goes back, or when, or whether it goes forward again.
//   - The copy is the whole primary at one moment, or it is not used: while there is none, or a new one
//     is made, look-ups go to the primary.
//   - The file is not needed: where it is damaged, removed, or of another store, a new one is made.
//     Only revocations made while the primary was unreachable, and not written there yet, exist in it alone.
package replica
