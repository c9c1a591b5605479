// Package replica keeps a copy of a store on the machine that judges keys by it: a node
// answers alone, also while the database that the nodes share is away.
//
// The database is the primary. The copy is an SQLite file, made in one piece at first and then
// fed by the primary's changes; look-ups never leave the machine. Everything that is written,
// and what is asked by management, goes to the primary.
//
// Three things are held to whatever happens:
//
//   - What was refused with an acknowledged write is never accepted here again without a later,
//     explicit write. So where the primary is not a later state of what was copied (a backup was
//     restored, a server that was behind took over), the copy's refusals outlive it. They are
//     written to the primary, refused here meanwhile, and taken over into the next copy wherever
//     that does not hold them: beside its rows, where it has none of what they are about. So
//     it does not matter how often the primary goes back, or when, or whether it goes forward again.
//   - The copy is all of the primary at one moment, or it is not used: while there is none, or it is
//     made anew, look-ups go to the primary.
//   - Nothing in the file is needed: damaged, removed, or of another store, it is made anew.
//     Only what was refused while the primary was away, and not yet written there, is in it alone.
package replica
