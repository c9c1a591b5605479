"""An upstream in Python: python3 python.py <flask|wsgi|urlsplit> <port>. It answers "RAN <handler>" or "none"."""
import http.server, logging, re, sys, urllib.parse, wsgiref.simple_server

kind, port = sys.argv[1], int(sys.argv[2])
exact = {"/cargo/load": "load", "/v1/generate": "generate", "/health": "health"}
below = {"/v1/admin/": "admin", "/api/": "api", "/docs/": "docs", "/app/": "app"}


def handler(p):
    if p in exact:
        return "RAN " + exact[p]
    if re.fullmatch("/cargo/[^/]+/tracking", p):
        return "RAN tracking"
    for b, name in below.items():
        if p.startswith(b):
            return "RAN " + name
    return "none"


if kind == "flask":
    from flask import Flask
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    app = Flask(__name__, static_folder=None)
    for path, name in [*exact.items(), ("/cargo/<id>/tracking", "tracking"), *((b + "<path:p>", n) for b, n in below.items())]:
        app.add_url_rule(path, name, lambda name=name, **rest: "RAN " + name)
    app.register_error_handler(404, lambda e: "none")
    app.run("127.0.0.1", port, threaded=True)
elif kind == "wsgi":
    class Quiet(wsgiref.simple_server.WSGIRequestHandler):
        def log_message(self, *a): pass

    def app(environ, start):
        start("200 OK", [("Content-Type", "text/plain")])
        return [handler(environ["PATH_INFO"]).encode()]
    wsgiref.simple_server.make_server("127.0.0.1", port, app, handler_class=Quiet).serve_forever()
else:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            # self.path has merged slashes at its start since Python 3.11, so the target is read from the request line.
            target = self.requestline.split(" ")[1]
            try:
                answer = handler(urllib.parse.unquote(urllib.parse.urlsplit(target).path)).encode()
            except ValueError:
                answer = b"none"
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *a): pass
    http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
