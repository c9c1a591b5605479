package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/replication"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// takeOver prepares the copy of a backup to replace the former database. It raises the epoch, ends all
// sessions, and calls keep to write the former database's revocations. locked is the former database's
// file, or nil if there is none.
func takeOver(ctx context.Context, copied string, locked *os.File, old os.FileInfo, logger *slog.Logger, keep RevocationWriter, done *Restored) error {
	s, err := OpenExisting(ctx, copied, logger)
	if err != nil {
		return err
	}
	defer s.Close()
	epoch, err := s.Epoch(ctx)
	if err != nil {
		return err
	}
	if locked != nil {
		formerEpoch, unread, err := s.carryRevocations(ctx, locked, old, logger, keep, done)
		switch {
		case err != nil:
			return err
		case unread == nil:
			epoch = max(epoch, formerEpoch)
		default:
			if keep != nil {
				done.Unread = unread
			}
			// The former epoch is unknown. The time in Unix seconds is higher than any epoch so far.
			epoch = max(epoch, time.Now().Unix())
		}
	}
	if keep != nil {
		// The backup itself also holds stored revocations. Their keys or tenants were unknown when the backup
		// was made.
		kept, err := s.StoredRevocations(ctx)
		if err == nil {
			var n int
			n, err = s.carryList(ctx, kept, keep)
			done.Revocations += n
		}
		if err != nil {
			return err
		}
	}
	if err := s.Write(ctx, "raising the epoch", func(t *sqlstore.Tx) error {
		if keep != nil {
			// Since the backup was made, a session in it may have been ended and a link in it may have been used. So
			// people must sign in again.
			for _, query := range []string{`DELETE FROM sessions`, `DELETE FROM portal_links`} {
				if _, err := t.Exec(query); err != nil {
					return err
				}
			}
		}
		_, err := t.Exec(`UPDATE meta SET value = $1 WHERE name = 'epoch'`, fmt.Sprint(epoch+1))
		return err
	}); err != nil {
		return err
	}
	return closeWhole(s, copied)
}

// carryRevocations copies the former database's revocations to s and returns its epoch. unread is
// the reason why the former database could not be read completely.
func (s *Store) carryRevocations(ctx context.Context, locked *os.File, old os.FileInfo, logger *slog.Logger, keep RevocationWriter, done *Restored) (epoch int64, unread, err error) {
	former, discard, err := openFormer(ctx, locked, old, logger)
	if err == nil {
		defer discard()
		epoch, err = former.Epoch(ctx)
	}
	if err == nil && keep != nil {
		var fault error
		if done.Revocations, err, fault = s.carryAll(ctx, former, keep); fault != nil {
			return 0, nil, fault
		}
	}
	if unreadable(err) {
		return 0, err, nil
	}
	return epoch, nil, err
}

// unreadable reports whether err means that a file is damaged, is no database, or has a newer
// schema.
func unreadable(err error) bool {
	var schema *sqlstore.SchemaError
	return Damaged(err) || errors.As(err, &schema)
}

// openFormer opens a private copy of the former database and its log, so that the originals stay
// unchanged. It reads the database through locked, because closing another descriptor of the file would
// drop the locks.
func openFormer(ctx context.Context, locked *os.File, old os.FileInfo, logger *slog.Logger) (s *Store, discard func(), err error) {
	to, err := os.CreateTemp(filepath.Dir(locked.Name()), filepath.Base(locked.Name())+".former-") // os.CreateTemp creates the file with mode 0600.
	if err != nil {
		return nil, nil, err
	}
	file := to.Name()
	defer func() {
		if err != nil {
			Remove(file)
		}
	}()
	_, err = io.Copy(to, io.NewSectionReader(locked, 0, old.Size()))
	if closed := to.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = copyLog(locked.Name()+"-wal", file+"-wal")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("copying the former database to read its revocations: %w", err)
	}
	if s, err = OpenExisting(ctx, file, logger); err != nil {
		return nil, nil, err
	}
	return s, func() {
		s.Close()
		Remove(file)
	}, nil
}

// copyLog copies a write-ahead log if the log exists.
func copyLog(from, to string) error {
	in, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if closed := out.Close(); err == nil {
		err = closed
	}
	return err
}

// carryAll copies those revocations that former has and s lacks, and returns their number. err is an
// error of reading former. fault is an error of writing s.
func (s *Store) carryAll(ctx context.Context, former *Store, keep RevocationWriter) (n int, err, fault error) {
	carry := func(list []replication.StoredRevocation) error {
		more, err := s.carryList(ctx, list, keep)
		n += more
		fault = err
		return err
	}
	err = former.RowRevocations(ctx, func(list []management.Revocation) error {
		kept := make([]replication.StoredRevocation, len(list))
		for i := range list {
			kept[i].Revocation = list[i]
		}
		return carry(kept)
	})
	if fault != nil || err != nil {
		return n, err, fault
	}
	stored, err := former.StoredRevocations(ctx)
	if err == nil {
		err = carry(stored)
	}
	return n, err, fault
}

// carryList copies those revocations in a list that s lacks, and returns their number.
func (s *Store) carryList(ctx context.Context, list []replication.StoredRevocation, keep RevocationWriter) (int, error) {
	revocations := make([]management.Revocation, len(list))
	for i := range list {
		revocations[i] = list[i].Revocation
	}
	states, err := s.CompareRevocations(ctx, revocations)
	if err != nil {
		return 0, err
	}
	var written []management.Revocation
	for i, r := range revocations {
		if states[i] == replication.NotRevoked {
			if err := keep(ctx, s, r); err != nil {
				return 0, err
			}
			written = append(written, r)
		}
	}
	after, err := s.CompareRevocations(ctx, written)
	if err != nil {
		return 0, err
	}
	for i, r := range written {
		if after[i] == replication.NotRevoked {
			return 0, fmt.Errorf("%w: %s of %s in keyspace %s could not be written", gateway.ErrStore, r.Action, r.ID, r.Keyspace)
		}
	}
	return len(written), s.Write(ctx, "carrying over revocations", func(t *sqlstore.Tx) error {
		for i, k := range list {
			err := error(nil)
			switch {
			case states[i] == replication.UnknownID && k.UnknownSince.IsZero():
				k.UnknownSince = t.Now
				err = replication.StoreRevocation(t, k)
			case k.UnknownSince.IsZero():
				// The row shows the revocation, so the revocation need not be stored.
			case states[i] == replication.UnknownID && t.Now.Sub(k.UnknownSince) <= replication.UnknownRetention:
				err = replication.StoreRevocation(t, k)
			default:
				err = replication.DeleteRevocation(t, k.Revocation)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}
