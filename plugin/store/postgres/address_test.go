package postgres

import (
	"strings"
	"testing"
)

func TestAddressForms(t *testing.T) {
	const password = "s3cretword"
	for _, tt := range []struct {
		address string
		ok      bool
	}{
		{"postgres://u:" + password + "@127.0.0.1:5999/app", true},
		{"postgresql://u@127.0.0.1/app?application_name=x&search_path=keys", true},
		{"postgresql:///app", true},
		{"host=127.0.0.1 port=5999 user=u password=" + password + " dbname=app", true},
		{"  dbname = app user = u", true},
		{"user=u", true},
		{"host=127.0.0.1 statement_timeout=5000", true},

		{"jdbc:postgresql://127.0.0.1:5999/app?user=u&password=" + password, false},
		{"postgresql+psycopg2://u:" + password + "@127.0.0.1/app?a=b", false},
		{"postgresql+asyncpg://u:" + password + "@127.0.0.1/app", false},
		{"r2dbc:postgresql://127.0.0.1/app?user=u", false},
		{"mysql://u:" + password + "@127.0.0.1/app?x=y", false},
		{"POSTGRES://u:" + password + "@127.0.0.1/app?sslmode=disable", false},
		{"postgres:u:" + password + "@127.0.0.1/app?sslmode=disable", false},
		{"DATABASE_URL=postgres://u:" + password + "@127.0.0.1/app", false},
		{"sqlalchemy.url=postgresql://u:" + password + "@127.0.0.1/app", false},
		{"host=127.0.0.1 jdbc:postgresql://h/app?user=u", false},
		{"Server=127.0.0.1;Database=app;User Id=u;Password=" + password, false},
		{"hostaddr=127.0.0.1 dbname=app", false},
		{"postgres://u@/app?hostaddr=127.0.0.1", false},
		{"127.0.0.1:5432/app", false},
		{"/var/lib/keygate/keygate.db", false},
		{"", false},
	} {
		_, _, err := Identity(tt.address)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.address, err)
		}
		if err != nil && strings.Contains(err.Error(), password) {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}
