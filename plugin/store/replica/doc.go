// Package replica keeps a copy of a shared store on the gateway's machine. A node checks keys by
// the copy, even while the shared database is unreachable.
//
// The shared database is the primary. The copy is an SQLite file. It is first copied as a whole,
// and then follows the primary's changes. Look-ups never leave the machine. Writes, and reads of
// the management, go to the primary.
//
// The package keeps three promises:
//
//   - A key that an acknowledged write revoked is never accepted here again without a later,
//     explicit write. This holds even if the primary is no longer a later state of the copy,
//     because a backup was restored or a standby that lagged behind took over. Then the copy's
//     revocations are written to the primary and apply here meanwhile. The next copy takes them
//     over if its rows lack them; revocations without a row are kept in a table of their own. So
//     it does not matter how often the primary goes back to an older state, when, or whether it
//     goes forward again.
//   - The copy is used only if it is the whole primary as of one moment. While there is none, or
//     a new one is made, look-ups go to the primary.
//   - The file is dispensable: if it is damaged, removed, or a copy of another store, a new one is
//     made. It alone holds only revocations that were made while the primary was unreachable, and
//     are not written there yet.
package replica
