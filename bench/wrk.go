package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// measurement holds the figures of one peer in one turn.
type measurement struct {
	rate     float64 // requests per second
	p50, p99 time.Duration
	cpu      float64 // of the peer's processes, in microseconds per request
	memory   float64 // memory is the resident memory in MB.
}

// writeScript writes the wrk script, which sends each peer's keys in turn and prints its result in
// one line.
func writeScript(path string, peers []*peer) error {
	var b strings.Builder
	b.WriteString("local sets, formats = {}, {}\n")
	for _, p := range peers {
		fmt.Fprintf(&b, "sets[%q] = {%q}\n", p.addr, strings.Join(p.keys, `", "`))
	}
	text := strings.ReplaceAll(b.String(), `\", \"`, `", "`)
	for _, p := range peers {
		request := p.request
		if request == "" {
			request = `wrk.format("GET", "/v1/things", {["X-API-Key"] = key})`
		}
		text += fmt.Sprintf("formats[%q] = function(key) return %s end\n", p.addr, request)
	}
	text += `
local requests, n = {}, 0
function init(args)
  local peer = wrk.host .. ":" .. wrk.port
  for _, key in ipairs(sets[peer]) do
    requests[#requests + 1] = formats[peer](key)
  end
end
function request()
  n = n % #requests + 1
  return requests[n]
end
function done(summary, latency, requests)
  io.write(string.format("RESULT %d %d %d %d %d\n", summary.requests, summary.duration,
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
`
	return os.WriteFile(path, []byte(text), 0o600)
}

var result = regexp.MustCompile(`RESULT (\d+) (\d+) (\d+) (\d+) (\d+)`)

// measure loads the peer for the duration d and returns the figures.
func (p *peer) measure(ctx context.Context, script string, d time.Duration, connections int) (measurement, error) {
	before := p.cpuTime()
	args := []string{"wrk", "-t", "1", "-c", strconv.Itoa(connections), "-d", fmt.Sprintf("%ds", max(int(d.Seconds()), 1)),
		"-s", script, "http://" + p.addr}
	if p.core != "" {
		args = append([]string{"taskset", "-c", otherCores(p.core)}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return measurement{}, fmt.Errorf("wrk against %s: %w: %s", p.name, err, out)
	}
	f := result.FindSubmatch(out)
	if f == nil {
		return measurement{}, fmt.Errorf("wrk against %s printed no result: %s", p.name, out)
	}
	var v [5]float64
	for i := range v {
		v[i], _ = strconv.ParseFloat(string(f[i+1]), 64)
	}
	if v[2] > 0 || v[0] == 0 {
		return measurement{}, fmt.Errorf("%s: %.0f of %.0f requests failed: %s", p.name, v[2], v[0], out)
	}
	return measurement{
		rate: v[0] / v[1] * 1e6,
		p50:  time.Duration(v[3]) * time.Microsecond, p99: time.Duration(v[4]) * time.Microsecond,
		cpu:    float64((p.cpuTime() - before).Microseconds()) / v[0],
		memory: p.memory(),
	}, nil
}

// pids returns the ids of the peer's process and its child processes.
func (p *peer) pids() []int {
	all := []int{p.cmd.Process.Pid}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", all[0]))
	for _, t := range tasks {
		b, _ := os.ReadFile(t)
		for _, f := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil {
				all = append(all, pid)
			}
		}
	}
	return all
}

// cpuTime returns the processor time that the peer has used. The kernel counts it in ticks of
// 1/100 s (USER_HZ).
func (p *peer) cpuTime() time.Duration {
	var ticks int64
	for _, pid := range p.pids() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		// The command name is in parentheses and may contain spaces.
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		for _, i := range []int{11, 12} { // The fields 11 and 12 are the times in user mode and in kernel mode, utime and stime.
			n, _ := strconv.ParseInt(f[i], 10, 64)
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// memory returns the resident memory of the peer in MB.
func (p *peer) memory() float64 {
	var pages int64
	for _, pid := range p.pids() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			continue
		}
		if f := strings.Fields(string(b)); len(f) > 1 {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			pages += n
		}
	}
	return float64(pages) * float64(os.Getpagesize()) / 1e6
}
