package postgres

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// CheckAddress returns nil if address has a form that PostgreSQL's own programs accept. The form is a
// URL that begins with postgres:// or postgresql://, or a list of keywords and values that names a
// host, database, user or service. CheckAddress reads no file and no environment variable.
//
// Addresses of other libraries, such as jdbc:postgresql:// and postgresql+psycopg2://, are errors,
// because the driver would read them as keywords and connect to another server. Errors quote only the
// scheme of an address, because a password may be anywhere in the address.
func CheckAddress(address string) error {
	if strings.HasPrefix(address, "postgres://") || strings.HasPrefix(address, "postgresql://") {
		return nil
	}
	if keywords.MatchString(address) && target.MatchString(address) {
		return nil
	}
	if scheme := otherScheme.FindString(address); scheme != "" {
		return fmt.Errorf("the address of PostgreSQL begins with %q: it must be postgres:// or postgresql://, and user and password come before the host: postgres://user:password@host:5432/database", scheme)
	}
	return errAddress
}

var (
	// keywords matches addresses in the form of keywords and values. target matches those keywords that
	// name a host, database, user or service.
	keywords = regexp.MustCompile(`^\s*[A-Za-z_][A-Za-z0-9_.]*\s*=`)
	target   = regexp.MustCompile(`(?:^|\s)(?:host|dbname|database|user|service)\s*=`)
	// otherScheme matches the scheme of another library's address.
	otherScheme = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]{0,30}:(?:[A-Za-z][A-Za-z0-9+.-]{0,30}:)*//`)
	// parameter matches valid names of server settings.
	parameter = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*$`)
)

// checkParameters rejects parameters that are no server settings although the driver would send them
// to the server as settings. Such parameters are parts of an address in another form, and hostaddr.
// The driver does not know hostaddr and would connect to another host.
func checkParameters(c *pgconn.Config) error {
	for name := range c.RuntimeParams {
		if name == "hostaddr" {
			return errors.New("the address of PostgreSQL states hostaddr, which is not supported: state host=<IP address>")
		}
		if !parameter.MatchString(name) {
			return errAddress
		}
	}
	return nil
}
