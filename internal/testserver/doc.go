// Package testserver starts private servers for tests: PostgreSQL, PgBouncer, Redis and Valkey. It
// runs the installed binaries on free ports of 127.0.0.1, each in a directory of its own. The
// machine's own servers are never used, and every server ends with the tests, even if these are
// killed.
//
// A test that only stores data uses the server that the tests of its package share ([RedisURL],
// [PostgresURL]). The shared server starts with the first call. A test that kills, stops or
// configures its server starts its own ([NewRedis], [NewPostgres]). A [Proxy] in front of a server
// delays or breaks connections.
//
// install.sh installs the servers. Where a binary is missing, the test fails and names it.
package testserver
