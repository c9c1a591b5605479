package console

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"sync"
)

// assetPath is the prefix of the paths of assets.
const assetPath = "/assets/"

//go:embed assets
var assetFiles embed.FS

// asset is a file that pages load. Its URL contains the digest of its content, so that browsers
// may cache it for ever.
type asset struct {
	data, zipped []byte
	kind         string
	image        bool
}

var kinds = map[string]string{
	".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
	".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".gif": "image/gif", ".ico": "image/x-icon",
}

// shipped returns the assets that every console has, by the names that templates use.
var shipped = sync.OnceValue(func() map[string]*asset {
	out := map[string]*asset{}
	err := fs.WalkDir(assetFiles, "assets", func(name string, d fs.DirEntry, err error) error {
		kind := kinds[path.Ext(name)]
		if err != nil || d.IsDir() || kind == "" {
			return err
		}
		data, err := assetFiles.ReadFile(name)
		out[path.Base(name)] = newAsset(kind, data)
		return err
	})
	if err != nil {
		panic(err) // The files are embedded in the binary.
	}
	return out
})

func newAsset(kind string, data []byte) *asset {
	a := &asset{data: data, kind: kind, image: strings.HasPrefix(kind, "image/")}
	if !a.image || kind == "image/svg+xml" {
		var b bytes.Buffer
		z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
		_, _ = z.Write(data) // Writes to a bytes.Buffer can't fail.
		_ = z.Close()
		if b.Len() < len(data) {
			a.zipped = b.Bytes()
		}
	}
	return a
}

// makeAssets sets the assets of this console: the shipped ones and those of its brand.
func (h *Handler) makeAssets() error {
	h.assets, h.names = map[string]*asset{}, map[string]string{}
	for name, a := range shipped() {
		if name == "mark.svg" {
			a = newAsset(a.kind, h.opts.Brand.mark(a.data))
		}
		h.addAsset(name, a)
	}
	theme, err := h.opts.Brand.theme()
	if err != nil {
		return err
	}
	h.addAsset("theme.css", newAsset(kinds[".css"], theme))
	if logo := h.opts.Brand.Logo; len(logo.Data) > 0 {
		kind, err := logo.kind()
		if err != nil {
			return err
		}
		h.addAsset("logo", newAsset(kind, logo.Data))
	}
	return nil
}

func (h *Handler) addAsset(name string, a *asset) {
	sum := sha256.Sum256(a.data)
	ext := path.Ext(name)
	full := strings.TrimSuffix(name, ext) + "." + hex.EncodeToString(sum[:6]) + ext
	h.assets[full], h.names[name] = a, full
}

// serveAsset answers with the asset of that name, or 404.
func (h *Handler) serveAsset(w http.ResponseWriter, r *http.Request, name string) {
	a := h.assets[name]
	if a == nil || r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "There is no such file.", http.StatusNotFound)
		return
	}
	header := w.Header()
	header.Set("Content-Type", a.kind)
	header.Set("Cache-Control", "public, max-age=31536000, immutable")
	if a.image {
		// An SVG that is opened as a page has the console's origin, so it must not run scripts.
		header.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox")
	}
	body := a.data
	if a.zipped != nil {
		header.Set("Vary", "Accept-Encoding")
		if acceptsGzip(r) {
			header.Set("Content-Encoding", "gzip")
			body = a.zipped
		}
	}
	header.Set("Content-Length", itoa(int64(len(body))))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}

// acceptsGzip reports whether the client accepts gzip. A weight of 0 excludes gzip.
func acceptsGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(strings.Join(r.Header.Values("Accept-Encoding"), ","), ",") {
		coding, params, _ := strings.Cut(part, ";")
		if !strings.EqualFold(strings.TrimSpace(coding), "gzip") {
			continue
		}
		q := strings.ReplaceAll(strings.ToLower(params), " ", "")
		return q != "q=0" && q != "q=0.0" && q != "q=0.00" && q != "q=0.000"
	}
	return false
}
