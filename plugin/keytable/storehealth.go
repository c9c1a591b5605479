package keytable

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
)

// StoreHealth records whether the store answers. Reading and writing fail and recover
// independently: a full disk, or a lock of another process, prevents only writing. Make one
// with NewStoreHealth. Safe for concurrent use; its methods do not block.
type StoreHealth struct {
	log *slog.Logger
	// errors counts the calls that the store did not answer.
	errors           atomic.Int64
	reading, writing fault
}

// fault is the state of one kind of failure, of reading or of writing.
type fault struct {
	failing atomic.Bool
	// last is the latest error's text.
	last atomic.Pointer[string]
	// remedy is the latest error's Remedy; see Remedy.
	remedy atomic.Pointer[string]
}

// Remedy returns the problem that a store's error states and how to solve it, in one line without the driver's error. For
// another error, Remedy returns the first line of its text.
func Remedy(err error) string {
	var f interface{ Remedy() string }
	if errors.As(err, &f) {
		return f.Remedy()
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// NewStoreHealth returns the health of a store that works. It logs failures and recoveries.
func NewStoreHealth(log *slog.Logger) *StoreHealth { return &StoreHealth{log: log} }

// failed records a failure and reports whether it is the first of a run. A cancelled call is
// ignored, since it does not show that the store fails.
func (h *StoreHealth) failed(f *fault, err error) (first bool) {
	if errors.Is(err, context.Canceled) {
		return false
	}
	h.errors.Add(1)
	text := err.Error()
	f.last.Store(&text)
	remedy := Remedy(err)
	f.remedy.Store(&remedy)
	return !f.failing.Swap(true)
}

// cleared ends a run of failures, and reports whether there was a run.
func (f *fault) cleared() bool { return f.failing.Load() && f.failing.Swap(false) }

// Errors returns how many calls failed.
func (h *StoreHealth) Errors() int64 { return h.errors.Load() }

// Problem returns the text of the last error while reading or writing fails, and "" while both
// work.
func (h *StoreHealth) Problem() string {
	for _, f := range []*fault{&h.reading, &h.writing} {
		if p := f.last.Load(); p != nil && f.failing.Load() {
			return *p
		}
	}
	return ""
}

// Remedy returns the Remedy of the error that Problem returns.
func (h *StoreHealth) Remedy() string {
	for _, f := range []*fault{&h.reading, &h.writing} {
		if p := f.remedy.Load(); p != nil && f.failing.Load() {
			return *p
		}
	}
	return ""
}

// Reading reports whether reading works.
func (h *StoreHealth) Reading() bool { return !h.reading.failing.Load() }

// Writing reports whether writing works.
func (h *StoreHealth) Writing() bool { return !h.writing.failing.Load() }

// ReadFailed records that the store could not be read while the caller did what doing names. It
// logs only the first failure of a run, since a line for each would hide other messages.
func (h *StoreHealth) ReadFailed(doing string, err error) {
	if h.failed(&h.reading, err) {
		h.log.Error("the store does not answer: keys in memory go on working, all other requests get 503 until it does",
			"while", doing, "error", err)
	}
}

// ReadWorked records that the store was read.
func (h *StoreHealth) ReadWorked() {
	if h.reading.cleared() {
		h.log.Info("the store answers again")
	}
}

// WriteFailed records that the store could not be written while the caller did what doing names.
// It logs only the first failure of a run.
func (h *StoreHealth) WriteFailed(doing string, err error) {
	if h.failed(&h.writing, err) {
		h.log.Error("the store cannot be written: keys go on working and are counted in memory, changes get 503 until it can",
			"while", doing, "error", err)
	}
}

// WriteWorked records that the store was written.
func (h *StoreHealth) WriteWorked() {
	if h.writing.cleared() {
		h.log.Info("the store can be written again")
	}
}
