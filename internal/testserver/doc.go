// Package testserver starts real servers for tests: private ones, on free ports of
// 127.0.0.1, from the binaries that are installed, in directories of their own. None of
// them is the machine's, and none outlives the tests, however those end.
//
// A test that only needs somewhere to keep things takes a part of the server that
// its package's tests share ([RedisURL], [PostgresURL]): the server starts with the first
// who asks. One that kills, stops or configures its server starts its own ([NewRedis],
// [NewPostgres]). What is done to connections, a [Proxy] between the two does.
//
// install.sh installs what is missing; where a binary is not found a test fails, naming
// what to install.
package testserver
