// An upstream in Node: node node.js <kind> <port>. It answers "RAN <handler>" or "none".
const http = require('http'), url = require('url');
const [kind, port] = process.argv.slice(2);
const routes = { '/cargo/load': 'load', '/cargo/:id/tracking': 'tracking', '/v1/generate': 'generate', '/health': 'health' };
const below = { '/v1/admin': 'admin', '/api': 'api', '/docs': 'docs', '/app': 'app' };

function handler(p) {
  if (typeof p !== 'string') return 'none';
  if (routes[p]) return 'RAN ' + routes[p];
  if (/^\/cargo\/[^\/]+\/tracking$/.test(p)) return 'RAN tracking';
  for (const b in below) if (p.startsWith(b + '/')) return 'RAN ' + below[b];
  return 'none';
}

function plain(path) {
  http.createServer((q, r) => {
    let answer;
    try { answer = handler(path(q)); } catch (e) { answer = 'none'; }
    r.end(answer);
  }).listen(+port, '127.0.0.1');
}

const kinds = {
  url: () => plain(q => new URL(q.url, 'http://' + q.headers.host).pathname),
  'url-decoded': () => plain(q => decodeURIComponent(new URL(q.url, 'http://' + q.headers.host).pathname)),
  parse: () => plain(q => url.parse(q.url).pathname),
  'parse-decoded': () => plain(q => decodeURIComponent(url.parse(q.url).pathname)),
  express: () => {
    const app = require('express')();
    for (const p in routes) app.all(p, (q, r) => r.end('RAN ' + routes[p]));
    for (const p in below) app.use(p, (q, r, next) => q.path === '/' ? next() : r.end('RAN ' + below[p]));
    app.use((q, r) => r.end('none'));
    app.use((err, q, r, next) => r.end('none'));
    app.listen(+port, '127.0.0.1');
  },
  fastify: () => {
    const app = require('fastify')({ ignoreTrailingSlash: true, caseSensitive: false, ignoreDuplicateSlashes: true });
    for (const p in routes) app.all(p, async () => 'RAN ' + routes[p]);
    for (const p in below) app.all(p + '/*', async () => 'RAN ' + below[p]);
    app.setNotFoundHandler(async () => 'none');
    app.listen({ port: +port, host: '127.0.0.1' });
  },
  restify: () => {
    const app = require('restify').createServer({ ignoreTrailingSlash: true });
    for (const p in routes) app.get(p, (q, r, next) => { r.sendRaw(200, 'RAN ' + routes[p]); next(); });
    for (const p in below) app.get(p + '/*', (q, r, next) => { r.sendRaw(200, 'RAN ' + below[p]); next(); });
    app.on('restifyError', (q, r, err, next) => { r.sendRaw(200, 'none'); next(); });
    app.listen(+port, '127.0.0.1');
  },
};
kinds[kind]();
