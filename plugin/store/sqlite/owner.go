package sqlite

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

const (
	// ownerPoll is the time between two looks of a waiting process at the lock, and of an owner at its own end and
	// at waiting processes.
	ownerPoll = 100 * time.Millisecond
	// ownerGrace is how long a process waits for an owner that has not announced its end. A process that was just
	// told to stop announces that within ownerPoll.
	ownerGrace = 3 * ownerPoll
	// ownerSize is the size of the lock file in bytes. It never changes, so that a full disk does not keep an owner
	// from writing the file.
	ownerSize = 512
	// lockSuffix and waitingSuffix are the suffixes of the lock files of the owner and of a waiting process.
	lockSuffix    = ".lock"
	waitingSuffix = ".lock.waiting"
)

// instance identifies this process in lock files. Process numbers do not, because processes in containers often
// have the same number.
var instance = rand.Text()

// errOwned is the error of taking a lock that another process holds.
var errOwned = errors.New("the lock is held")

// ownerMark is the content of a lock file. It describes the process that holds the lock.
type ownerMark struct {
	Host     string    `json:"host"`
	PID      int       `json:"pid"`
	Node     string    `json:"node"`
	Started  time.Time `json:"started_at"`
	Instance string    `json:"instance"`
	// Draining reports whether the process is about to release the lock.
	Draining bool `json:"draining"`
}

// OwnerError is the error of Own if another process owns the database.
type OwnerError struct {
	Path string
	// Host, PID, Node and Started describe the owner. They are zero if the owner's description can't be read.
	Host    string
	PID     int
	Node    string
	Started time.Time
	// Waited is how long Own waited for the owner, which was about to end.
	Waited time.Duration
}

// Owner describes the owner in words.
func (e *OwnerError) Owner() string {
	if e.PID == 0 {
		return "another process"
	}
	return fmt.Sprintf("process %d on host %s (node %s, running since %s)", e.PID, e.Host, e.Node, e.Started.Format(time.RFC3339))
}

func (e *OwnerError) Error() string {
	owner := e.Owner()
	if e.Waited > 0 {
		return fmt.Sprintf("%s owns the database and did not stop within %s: stop that process, or raise `wait` of the option `store sqlite`", owner, e.Waited)
	}
	return owner + " owns the database, and an SQLite database has one owner, because two would spend each credit and quota twice: stop that process first, or use `store postgres` for several gateways"
}

// OwnOptions configure Own.
type OwnOptions struct {
	// Node names this process to others.
	Node string
	// Wait is how long Own waits for an owner that is about to end. Default: Own does not wait.
	Wait time.Duration
	// Exiting reports whether this process is about to end, and so will release the database. It does not block.
	// Default: the process never announces its end.
	Exiting func() bool
	// Yield is called once, on its own goroutine, if this process is about to end and another process waits for the
	// database. Yield must lead to a call of Release. Default: the other process waits for Release.
	Yield func(*Ownership)
	// Log receives warnings. Default: slog.Default.
	Log *slog.Logger
}

// Ownership is the right of this process to be the only gateway on a database. Own returns it.
type Ownership struct {
	path    string
	options OwnOptions
	// file is nil on systems or file systems that can't lock files.
	file     *os.File
	mark     ownerMark
	released chan struct{}
	release  sync.Once
	watching sync.WaitGroup
}

// Own makes this process the owner of the database at path, until Release or the end of the process. The operating
// system locks a file of its own, path + ".lock", which describes the owner and stays afterwards. SQLite's locks can't
// serve: they last for a transaction.
//
// If another process is the owner, Own returns an *OwnerError within ownerGrace. If that process is about to end, Own
// first waits for o.Wait, and the owner learns that a process waits. If the file system can't lock files, Own logs a
// warning and succeeds.
func Own(ctx context.Context, path string, o OwnOptions) (*Ownership, error) {
	o.Log = cmp.Or(o.Log, slog.Default())
	id, err := Identity(path)
	if err != nil {
		return nil, err
	}
	own := &Ownership{path: id, options: o, released: make(chan struct{})}
	if own.file, err = own.lock(ctx, id+lockSuffix); err != nil {
		return nil, err
	}
	host, _ := os.Hostname()
	own.mark = ownerMark{Host: host, PID: os.Getpid(), Node: o.Node, Started: time.Now().UTC().Truncate(time.Second), Instance: instance}
	own.write()
	if own.file != nil && o.Exiting != nil {
		own.watching.Go(own.watch)
	}
	return own, nil
}

// lock returns the locked file, or nil if files can't be locked here.
func (own *Ownership) lock(ctx context.Context, file string) (*os.File, error) {
	var waiting *os.File
	defer func() {
		if waiting != nil {
			waiting.Close()
		}
	}()
	begun, told := time.Now(), false
	for {
		f, err := lockFile(file)
		if !errors.Is(err, errOwned) {
			if errors.Is(err, errors.ErrUnsupported) {
				own.options.Log.Warn("files can't be locked here, so nothing keeps a second gateway from using the database: ensure that only one gateway uses it", "path", own.path, "error", err)
				err = nil
			}
			return f, err
		}
		mark := readMark(file)
		ends := mark.Draining || mark.Instance == instance
		limit := ownerGrace
		if ends {
			limit = max(limit, own.options.Wait)
			if waiting == nil {
				waiting, _ = lockFile(own.path + waitingSuffix) // another process may wait too
			}
			if !told {
				told = true
				own.options.Log.Warn("the database is in use by a process that is about to stop: waiting for it", "path", own.path, "host", mark.Host, "pid", mark.PID, "at_most", own.options.Wait.String())
			}
		}
		if waited := time.Since(begun); waited >= limit {
			e := &OwnerError{Path: own.path, Host: mark.Host, PID: mark.PID, Node: mark.Node, Started: mark.Started}
			if ends {
				e.Waited = limit
			}
			return nil, e
		}
		if own.options.Exiting != nil && own.options.Exiting() {
			return nil, errors.New("the process ends before it owns the database")
		}
		select {
		case <-time.After(ownerPoll / 2):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Release gives up the ownership. The database must be closed before. Release is idempotent.
func (own *Ownership) Release() {
	own.release.Do(func() {
		close(own.released)
		own.watching.Wait()
		if own.file != nil {
			own.mark = ownerMark{}
			own.write()
			own.file.Close()
		}
	})
}

// Released returns a channel that Release closes.
func (own *Ownership) Released() <-chan struct{} { return own.released }

// watch announces the end of this process, and calls Yield if another process waits.
func (own *Ownership) watch() {
	tick := time.NewTicker(ownerPoll)
	defer tick.Stop()
	for {
		select {
		case <-own.released:
			return
		case <-tick.C:
		}
		if !own.options.Exiting() {
			continue
		}
		if !own.mark.Draining {
			own.mark.Draining = true
			own.write()
		}
		if _, err := os.Stat(own.path + waitingSuffix); err != nil {
			continue // no process has ever waited
		}
		f, err := lockFile(own.path + waitingSuffix)
		if err == nil {
			f.Close()
		} else if errors.Is(err, errOwned) && own.options.Yield != nil {
			go own.options.Yield(own)
			return
		}
	}
}

// write writes the mark to the lock file. Without the mark the lock still holds, but other processes can't name its
// owner, so a failure is only logged.
func (own *Ownership) write() {
	if own.file == nil {
		return
	}
	text, err := json.Marshal(own.mark)
	if err == nil && len(text) > ownerSize {
		own.mark.Host, own.mark.Node = "", ""
		text, err = json.Marshal(own.mark)
	}
	if err == nil {
		_, err = own.file.WriteAt(append(text, bytes.Repeat([]byte(" "), ownerSize-len(text))...), 0)
	}
	if err != nil {
		own.options.Log.Warn("the lock file could not be written, so that other processes can't name the owner of the database", "path", own.file.Name(), "error", err)
	}
}

// readMark reads the mark of a lock file's owner. It returns the zero value if there is no valid mark.
func readMark(file string) (m ownerMark) {
	f, err := os.Open(file)
	if err != nil {
		return m
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, ownerSize))
	if err != nil || json.Unmarshal(text, &m) != nil {
		return ownerMark{}
	}
	return m
}
