// Package replica keeps a copy of a shared store on the gateway's machine. A node checks keys by
// the copy, even while the shared database is unreachable.
//
// The shared database is the primary. The copy is an SQLite file. The gateway first copies the
// primary as a whole, and then applies the primary's changes. Look-ups never leave the machine.
// Writes, and reads of the management, go to the primary.
//
// The package keeps three promises:
//
//   - After an acknowledged write has revoked a key, this node never accepts the key again without a
//     later, explicit write. The promise holds even if the primary goes back to an older state,
//     because a backup was restored or a standby that lagged behind took over. Then the node writes
//     the copy's revocations to the primary, and applies them to look-ups meanwhile. The next copy
//     takes over those revocations that its rows lack. A separate table keeps revocations without a
//     row. So the promise holds however often the primary goes back or forward.
//   - The node uses the copy only if it is the whole primary as of one moment. While no copy exists,
//     or the node makes a new one, look-ups go to the primary.
//   - The file is dispensable: if it is damaged, removed, or a copy of another store, the node makes a
//     new copy. The file is the only place of those revocations that were made while the primary was
//     unreachable, until the node has written them to the primary.
package replica
